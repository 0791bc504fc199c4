"""Only their owner can use the embedded servers: requests without a password, other local users, files."""

import base64
import contextlib
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from llava_av.services.state import Credentials, StateLock, ensure_credentials
from llava_av.storage import ObjectStore, StoreError
from llava_av.storage.sts import session_keys
from tests.interface_requests import CONTENT, CREATE, KEY, PATHS, SEARCH, TIMEOUT_S, ask

pytestmark = pytest.mark.integration

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
NOBODY = 65534


@pytest.mark.usefixtures("unharmed")
def test_no_port_reads_writes_or_deletes_without_a_password(ports: dict[str, int]) -> None:
    for name, port in ports.items():
        for method in ("GET", "POST", "PUT", "DELETE"):
            for path in PATHS:
                status, body, _ = ask(port, method, path, {"Origin": "https://elsewhere.example"})
                assert status >= 400 or not body, (name, method, path, status, body[:200])
                assert CONTENT not in body, (name, method, path)


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
