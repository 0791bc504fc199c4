"""Only their owner can use the embedded servers: no other local user, no page in the owner's browser."""

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import websocket
from mlflow import MlflowClient

from llava_av.services.state import Credentials, StateLock, ensure_credentials
from llava_av.storage import ObjectStore, StoreError
from llava_av.storage.sts import session_keys

pytestmark = pytest.mark.integration

KEY = "checkpoints/victim/step-00000001/manifest.json"
TIMEOUT_S, DEADLINE_S = 10, 180
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What the servers' own interfaces read, write and delete with, and an object of the bucket.
SEARCH = "/ajax-api/2.0/mlflow/experiments/search?max_results=5"
CREATE = "/ajax-api/2.0/mlflow/experiments/create"
PATHS = (
    "/",
    "/buckets/",
    f"/buckets/llava-av/{KEY}",
    f"/llava-av/{KEY}",
    "/dir/assign",
    "/cluster/status",
    "/col/delete?collection=llava-av",
    "/status",
    SEARCH,
    CREATE,
    "/api/2.0/mlflow-artifacts/artifacts?path=",
)
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
NOBODY = 65534


@pytest.fixture
def ports(
    mlflow_environment: Mapping[str, str], mlflow_state: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, int]:
    """Return the port of each interface by name; the bucket holds one object with the text `whole`."""
    for name, value in mlflow_environment.items():
        monkeypatch.setenv(name, value)
    ObjectStore.from_env().put_bytes(KEY, b"whole")
    found: dict[str, int] = json.loads((mlflow_state / "seaweedfs" / "ports.json").read_text())
    return {**found, "mlflow": urlsplit(mlflow_environment["MLFLOW_TRACKING_URI"]).port or 0}


@pytest.fixture
def unharmed(ports: dict[str, int]) -> Iterator[None]:
    """After the test the object and MLflow's experiments are what they were."""

    def experiments() -> set[str]:
        return {found.name for found in MlflowClient().search_experiments()}

    before = experiments()
    yield
    assert ObjectStore.from_env().get_bytes(KEY) == b"whole"
    assert experiments() == before


def ask(
    port: int, method: str, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, b"x" if method in ("PUT", "POST") else None, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    except (OSError, http.client.HTTPException):
        return 0, b"", {}
    finally:
        connection.close()


@pytest.mark.usefixtures("unharmed")
def test_no_port_reads_writes_or_deletes_without_a_password(ports: dict[str, int]) -> None:
    for name, port in ports.items():
        for method in ("GET", "POST", "PUT", "DELETE"):
            for path in PATHS:
                status, body, _ = ask(port, method, path, {"Origin": "https://elsewhere.example"})
                assert status >= 400 or not body, (name, method, path, status, body[:200])
                assert b"whole" not in body, (name, method, path)


def test_between_its_parts_seaweedfs_speaks_to_itself_alone(ports: dict[str, int]) -> None:
    for name, port in ports.items():
        if name in ("s3.port", "mlflow"):
            continue
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as plain:
            plain.sendall(HTTP2_PREFACE)
            # A gRPC server that takes anybody answers with its settings, a frame of type 4.
            assert received(plain)[3:4] != b"\x04", name
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as raw,
            context.wrap_socket(raw) as wrapped,
        ):
            wrapped.sendall(HTTP2_PREFACE)
            # Under TLS 1.3 the refusal comes with what would be the first answer.
            assert received(wrapped) == b"", name


def received(connection: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        return connection.recv(100)
    return b""


def login(environment: Mapping[str, str]) -> dict[str, str]:
    pair = f"{environment['MLFLOW_TRACKING_USERNAME']}:{environment['MLFLOW_TRACKING_PASSWORD']}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


@pytest.mark.usefixtures("unharmed")
def test_mlflow_answers_its_owner_and_its_own_pages(ports: dict[str, int]) -> None:
    port, mine = ports["mlflow"], login(os.environ)
    assert ask(port, "GET", SEARCH, mine)[0] == 200
    own = {**mine, "Origin": f"http://127.0.0.1:{port}"}
    assert ask(port, "GET", SEARCH, own)[0] == 200
    # A forwarded port has another number.
    forwarded = {**mine, "Host": "localhost:5000", "Origin": "http://localhost:5000"}
    assert ask(port, "GET", SEARCH, forwarded)[0] == 200
    status, _, headers = ask(port, "GET", "/")
    assert (status, headers["www-authenticate"]) == (401, 'Basic realm="MLflow"')
    wrong = {"Authorization": "Basic " + base64.b64encode(b"llava-av:guess").decode()}
    assert ask(port, "GET", SEARCH, wrong)[0] == 401
    assert ask(port, "GET", "/health")[0] == 200


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Host": "rebound.example"},
        {"Host": "rebound.example:80", "Origin": "http://rebound.example:80"},
        {"Host": "127.0.0.1.rebound.example"},
    ],
)
def test_a_page_of_others_has_nothing_of_a_browser_that_is_logged_in(
    ports: dict[str, int], headers: dict[str, str]
) -> None:
    for method, path in (("GET", SEARCH), ("POST", CREATE), ("GET", "/"), ("OPTIONS", CREATE)):
        status, _, answered = ask(ports["mlflow"], method, path, {**login(os.environ), **headers})
        assert status == 403, (method, path)
        assert "access-control-allow-origin" not in {name.lower() for name in answered}


def test_pages_of_other_origins_get_no_leave_to_write_objects(ports: dict[str, int]) -> None:
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "PUT"}
    status, _, headers = ask(ports["s3.port"], "OPTIONS", f"/llava-av/{KEY}", asked)
    assert status == 403
    assert "access-control-allow-origin" not in {name.lower() for name in headers}


# Prints each file of the folder that it can open, each socket that it can connect to, each port that answers.
INTRUDER = """
import os, socket, sys, urllib.request
"x".encode("idna")  # loads what nobody may not
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
for folder, _, names in os.walk(sys.argv[2]):
    for name in names:
        try:
            with open(os.path.join(folder, name), "rb"):
                print("file", os.path.join(folder, name))
        except OSError:
            pass
for path in sys.argv[3].split():
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print("socket", path)
    except OSError:
        pass
for url in sys.argv[4].split():
    try:
        print("url", url, urllib.request.urlopen(url, timeout=10).read(100))
    except OSError:
        pass
"""


@pytest.mark.usefixtures("unharmed")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_finds_nothing_open(ports: dict[str, int], mlflow_state: Path) -> None:
    sockets = [
        str(path)
        for path in Path("/tmp").glob("seaweedfs-*")
        if path.stem.split("-")[-1] in map(str, ports.values())
    ]
    urls = [
        f"http://127.0.0.1:{port}{path}" for port in ports.values() for path in PATHS if path != "/status"
    ]
    # The folders above are the test runner's, and closed to others whatever the product does.
    with contextlib.ExitStack() as stack:
        for folder in mlflow_state.parents:
            stack.callback(folder.chmod, stat.S_IMODE(folder.stat().st_mode))
            folder.chmod(folder.stat().st_mode | 0o055)
            if folder == Path("/tmp"):
                break
        done = subprocess.run(
            [
                sys.executable,
                "-I",
                "-c",
                INTRUDER,
                str(NOBODY),
                str(mlflow_state),
                *map(" ".join, (sockets, urls)),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sockets


def test_the_state_folder_of_an_earlier_version_is_closed_and_keeps_its_keys(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    (state / "credentials.json").write_text('{"access_key": "a", "secret_key": "b"}')
    lock = StateLock(state, "command")
    try:
        found = ensure_credentials(state)
        assert (found.access_key, found.secret_key) == ("a", "b")
        assert len(found.mlflow_password) >= 32
        assert ensure_credentials(state) == found
    finally:
        lock.close()
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert found.mlflow_password not in repr(found)
    assert isinstance(found, Credentials)


def test_the_embedded_store_says_that_it_gives_no_session_keys(
    mlflow_environment: Mapping[str, str],
) -> None:
    settings = ObjectStore.from_env(mlflow_environment).settings
    with pytest.raises(StoreError, match=r"has no STS .*: set session_credentials to false"):
        session_keys(settings, {"Version": "2012-10-17", "Statement": []}, 3600)


def test_keys_that_this_version_does_not_know_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text('{"access_key": "a", "secret_key": "b", "later": "c"}')
    found = ensure_credentials(tmp_path)
    assert (found.access_key, found.secret_key) == ("a", "b")
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": "c"}))
    assert ensure_credentials(tmp_path) == found


# Tries everything that a page can, and tells the server of the page what it could read.
PAGE = """<script>
async function attack() {
  const read = [];
  for (const port of PORTS) for (const path of PATHS) for (const method of ["GET", "POST", "PUT", "DELETE"])
    for (const mode of ["cors", "no-cors"]) for (const credentials of ["include", "omit"]) {
      try {
        const body = method === "GET" ? undefined : "x";
        const answer = await fetch(`http://127.0.0.1:${port}${path}`, {method, mode, credentials, body});
        const text = await answer.text();
        if (answer.ok && text) read.push(`${method} ${port} ${path} ${text.slice(0, 80)}`);
      } catch (refused) {}
    }
  await fetch("/done", {method: "POST", body: JSON.stringify(read)});
}
attack();
</script>"""


class _Site:
    """A web server with one page, and what the page told it."""

    def __init__(self, page: str) -> None:
        self.told: list[str] = []
        self.done = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page.encode())

            def do_POST(self) -> None:
                site.told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()
                site.done.set()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextlib.contextmanager
def site(page: str) -> Iterator[_Site]:
    found = _Site(page)
    thread = threading.Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()
        thread.join()


@contextlib.contextmanager
def chromium(folder: Path, *addresses: str) -> Iterator[int]:
    """Run a browser on some pages; its debugger's port."""
    assert BROWSER is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        [BROWSER, *options, "--remote-debugging-port=0", *addresses],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port_file = folder / "DevToolsActivePort"
        wait_until(lambda: port_file.exists() and "\n" in port_file.read_text())
        yield int(port_file.read_text().splitlines()[0])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "deadline passed"
        time.sleep(0.1)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian's package: chromium)")
def test_a_page_in_the_owners_browser_reads_and_changes_nothing(
    ports: dict[str, int], tmp_path: Path
) -> None:
    page = PAGE.replace("PORTS", json.dumps(list(ports.values()))).replace("PATHS", json.dumps(PATHS))
    with site(page) as evil, chromium(tmp_path, f"http://localhost:{evil.server.server_port}/"):
        assert evil.done.wait(DEADLINE_S)
    assert evil.told == []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian's package: chromium)")
def test_mlflows_pages_open_for_their_owner(ports: dict[str, int], tmp_path: Path) -> None:
    user, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    host = f"127.0.0.1:{ports['mlflow']}"
    with chromium(tmp_path) as debugged:
        # Stands for the dialog in which a person gives user and password.
        logged_in = open_tab(debugged, f"http://{user}:{password}@{host}{SEARCH}")
        wait_until(lambda: "Default" in shown(logged_in))
        pages = open_tab(debugged, f"http://{host}/#/experiments")
        # A name that only the server's answers have.
        wait_until(lambda: "Default" in shown(pages))


def open_tab(debugged: int, url: str) -> str:
    """Open a tab of a debugged browser and return the address of its debugger."""
    status, body, _ = ask(debugged, "PUT", f"/json/new?{quote(url, safe='')}")
    assert status == 200
    address: str = json.loads(body)["webSocketDebuggerUrl"]
    return address


def shown(debugger: str) -> str:
    """Return the text that a tab shows now."""
    with contextlib.closing(
        websocket.create_connection(debugger, timeout=TIMEOUT_S, suppress_origin=True)
    ) as tab:
        asked = {"expression": "document.body ? document.body.innerText : ''"}
        tab.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": asked}))
        return str(json.loads(tab.recv())["result"]["result"]["value"])
