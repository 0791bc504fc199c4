"""Settings from the environment, and errors of an unusable store, without a server."""

import errno
import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.storage import ObjectStore, StoreError, StoreSettings, map_parallel, read_settings
from llava_av.storage.store_errors import local_files
from llava_av.storage.store_settings import required_variables

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
WHOLE = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000", **KEYS}


def store_at(endpoint: str) -> ObjectStore:
    keys = {"access_key": "k", "secret_key": "secret"}
    return ObjectStore(StoreSettings(endpoint=endpoint, **keys, bucket="bucket", retry_s=0))


def message(endpoint: str) -> str:
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        store_at(endpoint).ensure_bucket()
    assert time.monotonic() - started < 10
    text = str(caught.value)
    assert "\n" not in text
    assert endpoint in text
    return text


@given(st.sets(st.sampled_from(required_variables({})), min_size=1))
def test_missing_variables_are_named(missing: set[str]) -> None:
    with pytest.raises(StoreError) as caught:
        read_settings({name: value for name, value in WHOLE.items() if name not in missing})
    assert set(re.findall(r"AWS_\w+", str(caught.value))) == missing


def test_defaults_and_overrides() -> None:
    assert read_settings(WHOLE).bucket == "llava-av"
    assert read_settings({**WHOLE, "AWS_REGION": ""}).region == "us-east-1"
    assert read_settings({**WHOLE, "LLAVA_AV_BUCKET": "mine"}).bucket == "mine"
    assert "secret" not in repr(store_at("http://127.0.0.1:1").settings)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://host", "http://", "http://host/path", "x"])
def test_an_invalid_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(StoreError, match=f"AWS_ENDPOINT_URL_S3={re.escape(endpoint)} is not the address"):
        read_settings({**WHOLE, "AWS_ENDPOINT_URL_S3": endpoint})


def test_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        text = message(f"http://127.0.0.1:{port}")
    assert text == (
        f"the object store at http://127.0.0.1:{port} cannot be reached (Connection refused): "
        "start it, or check AWS_ENDPOINT_URL_S3"
    )


def test_no_such_host() -> None:
    assert "cannot be found (no such host): check AWS_ENDPOINT_URL_S3" in message(
        "http://no-such.invalid:9000"
    )


def test_something_listens_but_never_answers() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        assert "does not answer in time" in message(f"http://127.0.0.1:{silent.getsockname()[1]}")


class _Answer(http.server.BaseHTTPRequestHandler):
    status, body, kind = 200, b"<html>hello</html>", "text/html"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_HEAD = do_PUT = do_DELETE = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[tuple[type[_Answer], str]]:
    handler = type("Handler", (_Answer,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_web_page_is_not_an_object_store(answering: tuple[type[_Answer], str]) -> None:
    handler, endpoint = answering
    handler.status = 404
    with pytest.raises(StoreError, match="does not answer like an S3 server"):
        store_at(endpoint).get_bytes("key")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (507, "XMinioStorageFull", "is full: free space on its disk"),
        (500, "InternalError", r"failed \(HTTP 500, no volume\): see its log, and whether its disk is full"),
        (403, "InvalidAccessKeyId", r"refuses access to bucket bucket \(InvalidAccessKeyId\): check AWS_ACC"),
        (403, "RequestTimeTooSkewed", "refuses requests of this machine: set its clock"),
        (404, "NoSuchBucket", "bucket bucket does not exist at .*: create it or set LLAVA_AV_BUCKET"),
        (404, "NoSuchKey", "s3://bucket/key does not exist at"),
        (400, "EntityTooLarge", "refused s3://bucket/key: EntityTooLarge: no volume"),
    ],
)
def test_answers_of_a_server_are_one_line(
    answering: tuple[type[_Answer], str], status: int, code: str, expected: str
) -> None:
    handler, endpoint = answering
    handler.status, handler.kind = status, "application/xml"
    handler.body = f"<Error><Code>{code}</Code><Message>no\nvolume</Message></Error>".encode()
    operations = (
        lambda store: store.put_bytes("key", b"1"),
        lambda store: store.get_bytes("key"),
        lambda store: list(store.list("key")),
    )
    for operation in operations:
        with pytest.raises(StoreError, match=expected) as caught:
            operation(store_at(endpoint))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [403, 500, 507])
def test_conditional_writes_tell_failure_from_a_lost_race(
    answering: tuple[type[_Answer], str], status: int
) -> None:
    handler, endpoint = answering
    handler.status, handler.kind = status, "application/xml"
    handler.body = b"<Error><Code>Other</Code><Message>m</Message></Error>"
    with pytest.raises(StoreError):
        store_at(endpoint).create("key", b"1")
    handler.status = 412
    assert store_at(endpoint).create("key", b"1") is False


def test_a_server_without_its_certificate_is_a_tls_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(20)

        def answer() -> None:
            while True:
                try:
                    connection, _ = plain.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        text = message(f"https://127.0.0.1:{plain.getsockname()[1]}")
    assert "has a TLS problem" in text
    assert "SSL_CERT_FILE" in text


def test_probe_refuses_a_store_where_both_writers_win(answering: tuple[type[_Answer], str]) -> None:
    handler, endpoint = answering
    handler.status, handler.body = 200, b""
    with pytest.raises(StoreError, match="does not honour If-None-Match and If-Match on writes"):
        store_at(endpoint).probe()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "no space left on the disk of /some"),
        (errno.EACCES, "cannot write /some/file: Permission"),
    ],
)
def test_local_errors_are_one_line(number: int, expected: str) -> None:
    with pytest.raises(StoreError, match=expected), local_files(Path("/some/file")):
        raise OSError(number, "Permission denied")


def test_a_full_disk_is_one_line(tmp_path: Path, answering: tuple[type[_Answer], str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with (
        pytest.raises(StoreError, match="no space left on the disk of /dev: free space"),
        local_files(Path("/dev/full")),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_keys_and_uris(tmp_path: Path) -> None:
    store = store_at("http://127.0.0.1:1")
    assert store.uri("a/b") == "s3://bucket/a/b"
    assert store.key("s3://bucket/a/b") == "a/b"
    for wrong in ("s3://other/a", "s3://bucket/", "a/b"):
        with pytest.raises(StoreError, match="is not in this store"):
            store.key(wrong)


@given(st.lists(st.integers()), st.integers(1, 9))
def test_map_parallel_keeps_order(items: list[int], workers: int) -> None:
    counts: list[int] = []
    assert map_parallel(lambda item: -item, items, workers=workers, on_done=counts.append) == [
        -i for i in items
    ]
    assert counts == list(range(1, len(items) + 1))


def test_map_parallel_stops_at_the_first_failure() -> None:
    called = []

    def fail(item: int) -> None:
        called.append(item)
        raise StoreError("no")

    with pytest.raises(StoreError, match="no"):
        map_parallel(fail, range(10_000), workers=2)
    assert len(called) < 10_000
