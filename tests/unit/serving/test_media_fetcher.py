"""Fetching of media from a real HTTPS server, whose names a resolver of the test leads to this machine."""

import asyncio
import base64
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from llava_av.serving.app import build_app
from llava_av.serving.current_model import CurrentModel
from llava_av.serving.limits import ServingLimits
from llava_av.serving.media_fetcher import LinkedFile, MediaFetcher
from llava_av.serving.media_hosts import MediaHosts
from llava_av.serving.public_addresses import public_addresses
from llava_av.serving.request_errors import RequestError
from llava_av.serving.served_model import ModelIdentity, ServedModel
from llava_av.serving.slot_engine import SlotEngine
from tests.media_samples import write_image
from tests.model_samples import image
from tests.server_processes import wait_until
from tests.tls_server import https_server

NAME, OTHER, FOREIGN = "media.example.org", "other.example.org", "foreign.example.org"
CONTENT = bytes(range(256)) * 100


class Media(BaseHTTPRequestHandler):
    """Server of files, and of all that a hostile one may answer."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[dict[str, str]]] = []
    dripped = threading.Semaphore(0)
    image = b""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.requests.append(
            {"path": self.path, **{name.lower(): value for name, value in self.headers.items()}}
        )
        getattr(self, url.path.strip("/"))(parse_qs(url.query))

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def file(self, query: dict[str, list[str]]) -> None:
        self.answer(200, CONTENT)

    def still(self, query: dict[str, list[str]]) -> None:
        self.answer(200, self.image)

    def to(self, query: dict[str, list[str]]) -> None:
        self.answer(302, Location=query["url"][0])

    def count(self, query: dict[str, list[str]]) -> None:
        left = int(query["left"][0])
        self.answer(307, Location=f"/count?left={left - 1}" if left else "/file")

    def encoded(self, query: dict[str, list[str]]) -> None:
        self.answer(200, CONTENT, Content_Encoding="gzip")

    def missing(self, query: dict[str, list[str]]) -> None:
        self.answer(404, b"no such file")

    def endless(self, query: dict[str, list[str]]) -> None:
        """Send more than the header states, and more than anybody reads."""
        self.chunks(b"x" * 2**16)

    def drip(self, query: dict[str, list[str]]) -> None:
        """Send a byte now and then, so that no single read takes long."""
        self.chunks(b"x", pause_s=0.02)
        Media.dripped.release()

    def chunks(self, chunk: bytes, pause_s: float = 0) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pause = threading.Event()
        try:
            while True:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                pause.wait(pause_s)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, ssl.SSLContext]]:
    with https_server(Media, [NAME, OTHER], tmp_path_factory.mktemp("server")) as made:
        yield made


async def here(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


class Client:
    """A fetcher of one server's files, and what it fetched."""

    def __init__(self, port: int, tls: ssl.SSLContext, folder: Path, **options: Any) -> None:
        self.port, self.folder = port, folder
        resolve = options.pop("resolve", here)
        hosts = MediaHosts([f"{name}:{port}" for name in (NAME, OTHER, FOREIGN)])
        self.fetcher = MediaFetcher(hosts, ServingLimits(**options), resolve=resolve, tls=tls)

    def url(self, path: str, host: str = NAME) -> str:
        return f"https://{host}:{self.port}/{path}"

    def files(self, *paths: str, host: str = NAME) -> list[LinkedFile]:
        return [
            LinkedFile(
                where=f"part {place}",
                url=self.fetcher.hosts.accepted(self.url(path, host)),
                path=self.folder / str(place),
            )
            for place, path in enumerate(paths)
        ]

    def fetch(self, *paths: str, host: str = NAME) -> int:
        return asyncio.run(self.fetcher.fetch(self.files(*paths, host=host)))

    def refused(self, *paths: str, host: str = NAME) -> tuple[str, str]:
        with pytest.raises(RequestError) as refused:
            self.fetch(*paths, host=host)
        assert refused.value.status == 400
        assert "127.0.0.1" not in str(refused.value)
        return refused.value.code, str(refused.value)


@pytest.fixture
def client(server: tuple[int, ssl.SSLContext], tmp_path: Path) -> Client:
    Media.requests.clear()
    return Client(*server, tmp_path)


def test_files_are_fetched_from_the_resolved_address_under_the_name_of_the_host(client):
    assert client.fetch("file?x=%20y", "file") == 2 * len(CONTENT)
    assert [(client.folder / name).read_bytes() for name in "01"] == [CONTENT] * 2
    first = Media.requests[0]
    assert first["path"] == "/file?x=%20y"
    assert first["host"] == f"{NAME}:{client.port}"
    assert first["accept-encoding"] == "identity"
    assert "cookie" not in first


def test_a_host_with_plain_http_needs_an_entry_of_its_own(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Media)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        address = f"http://{NAME}:{server.server_port}"
        hosts = MediaHosts([address])
        file = LinkedFile(where="part", url=hosts.accepted(f"{address}/file"), path=tmp_path / "0")
        fetcher = MediaFetcher(hosts, ServingLimits(), resolve=here)
        assert asyncio.run(fetcher.fetch([file])) == len(CONTENT)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_no_proxy_of_the_environment_takes_part(monkeypatch, client):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert client.fetch("file") == len(CONTENT)


def test_redirects_are_followed_to_listed_hosts_and_only_a_few(client):
    assert client.fetch("count?left=2") == len(CONTENT)
    assert client.fetch(f"to?url={client.url('file', OTHER)}") == len(CONTENT)
    assert Media.requests[-1]["host"] == f"{OTHER}:{client.port}"
    assert client.refused("count?left=3")[0] == "media_unavailable"


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://127.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "//localhost/file",
        "file:///etc/passwd",
        "https://user:password@{own}/file",
        "http://{own}/file",
        "https://unlisted.example.org/file",
        "https://[",
    ],
)
def test_a_redirect_elsewhere_is_not_followed(client, caplog, target):
    location = target.format(own=f"{NAME}:{client.port}")
    with caplog.at_level(logging.INFO):
        code, message = client.refused(f"to?url={location}")
    assert code == "media_unavailable"
    assert "cannot be fetched" in message
    assert len(Media.requests) == 1
    assert f"{NAME} cannot be fetched" in caplog.text


def test_a_host_is_resolved_once_for_each_connection(server, tmp_path):
    """A name that leads elsewhere afterwards is not looked up between check and connection."""
    answers = [["127.0.0.1"], OSError("not public")]

    async def rebound(host: str, port: int) -> Sequence[str]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    client = Client(*server, tmp_path, resolve=rebound)
    Media.requests.clear()
    assert client.fetch("file") == len(CONTENT)
    assert client.refused("file")[0] == "media_unavailable"
    assert len(Media.requests) == 1


def test_the_default_resolver_refuses_this_machine(server, tmp_path):
    port, tls = server
    hosts = MediaHosts([f"localhost:{port}"])
    fetcher = MediaFetcher(hosts, ServingLimits(), tls=tls)
    Media.requests.clear()
    file = LinkedFile(where="part", url=hosts.accepted(f"https://localhost:{port}/file"), path=tmp_path / "0")
    with pytest.raises(RequestError, match="cannot be fetched within 30 s"):
        asyncio.run(fetcher.fetch([file]))
    assert Media.requests == []


def test_all_failures_of_a_connection_are_told_alike(server, client, tmp_path):
    """A closed port, a private address, an unknown name, and a certificate for another name."""

    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    async def elsewhere(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2"]

    async def private(host: str, port: int) -> Sequence[str]:
        return await public_addresses("10.0.0.1", port)

    said = {
        Client(*server, tmp_path, resolve=resolve).refused("file")
        for resolve in (unknown, elsewhere, private)
    }
    assert len(said) == 1
    [(code, message)] = said
    assert client.refused("file", host=FOREIGN) == (code, message.replace(NAME, FOREIGN))
    untrusted = Client(server[0], ssl.create_default_context(), tmp_path)
    assert untrusted.refused("file") == (code, message)


def test_another_address_of_the_host_is_tried(server, tmp_path):
    async def several(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    assert Client(*server, tmp_path, resolve=several).fetch("file") == len(CONTENT)


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("missing", "media_unavailable", "status 404"),
        ("encoded", "media_unavailable", "content encoding 'gzip'"),
        ("endless", "media_too_large", "more than 30,000 bytes"),
    ],
)
def test_an_answer_that_is_no_file_within_the_limits_is_refused(server, tmp_path, path, code, says):
    found, message = Client(*server, tmp_path, media_bytes=30_000).refused(path)
    assert found == code
    assert message.startswith("part 0: the file")
    assert says in message


def test_the_files_of_a_request_have_a_limit_together(server, tmp_path):
    client = Client(*server, tmp_path, body_bytes=60_000)
    assert client.fetch("file", "file") == 2 * len(CONTENT)
    code, message = client.refused("file", "file", "file")
    assert code == "media_too_large"
    assert message.startswith("part 2: the file has more than 8,800 bytes")


def test_the_time_limit_holds_for_all_reads_together(server, tmp_path):
    code, message = Client(*server, tmp_path, fetch_s=0.3).refused("file", "drip")
    assert code == "media_unavailable"
    assert message.startswith(f"part 1: the file at {NAME} cannot be fetched within 0.3 s")
    assert Media.dripped.acquire(timeout=30)


def test_a_request_that_is_cancelled_closes_its_connection(client):
    async def cancelled() -> None:
        task = asyncio.create_task(client.fetcher.fetch(client.files("drip")))
        await asyncio.to_thread(wait_until, lambda: Media.requests, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert Media.dripped.acquire(timeout=30)


def test_an_answer_about_a_linked_image_is_that_about_the_same_image_in_the_request(parts, server, tmp_path):
    file = write_image(tmp_path / "still.png", image(size=40), "png")
    Media.image = file.read_bytes()
    client = Client(*server, tmp_path, batch=1, decode_workers=1)
    identity = ModelIdentity(name="tiny", version=None, digest="d" * 64)
    limits = ServingLimits(decode_workers=1)
    model = ServedModel(identity, parts[1], SlotEngine(*parts, slots=1, context=512), limits)
    content = f"data:;base64,{base64.b64encode(file.read_bytes()).decode()}"

    async def asked(*urls: str) -> list[httpx2.Response]:
        app = build_app(current, limits=limits, keys=None, fetcher=client.fetcher)
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answers = [await http.post("/v1/chat/completions", json=body(url)) for url in urls]
            return [*answers, await http.get("/metrics")]

    def body(url: str) -> dict[str, Any]:
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
        return {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 8}

    with contextlib.closing(CurrentModel(model)) as current:
        inside, linked, missing, unlisted, metrics = asyncio.run(
            asked(content, client.url("still"), client.url("missing"), "https://unlisted.example.org/")
        )
    assert linked.json()["choices"] == inside.json()["choices"]
    assert linked.json()["usage"] == inside.json()["usage"]
    assert missing.json()["error"]["code"] == "media_unavailable"
    assert unlisted.json()["error"]["code"] == "unsupported_url"
    assert 'llava_av_serving_fetches_total{result="ok"} 1.0' in metrics.text
    assert 'llava_av_serving_fetches_total{result="failed"} 1.0' in metrics.text
    assert f"llava_av_serving_fetched_bytes_total {len(Media.image):.1f}" in metrics.text
