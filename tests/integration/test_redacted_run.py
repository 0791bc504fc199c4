"""No password, key or signature of a run appears in its output or files, even if servers fail."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from llava_av.services.servers import ServerOptions, embedded_servers
from llava_av.services.state import StateLock, write_private
from llava_av.storage import ObjectStore
from tests.commands import TINY, llava_av

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

MARKS = {"mlflow": "hunter2-of-mlflow", "s3": "hunter2-of-s3", "proxy": "hunter2-of-proxy"}
RESET = struct.pack("ii", 1, 0)


class _Proxy:
    """Passes connections on to a server, except some requests, which it answers with a reset."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.resets_left = 0
        self.resets = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(connection,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(("127.0.0.1", self._to)) as server,
        ):
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            while data := client.recv(1 << 16):
                if b"/api/2.0/mlflow/" in data and self.resets_left:
                    self.resets_left -= 1
                    self.resets += 1
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    client.close()
                    return
                server.sendall(data)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[tuple[_Proxy, Mapping[str, str]]]:
    """Real servers whose secrets are marked, MLflow behind a proxy, and the variables that name them."""
    state = tmp_path / "servers"
    lock = StateLock(state, "command")
    keys = f'{{"access_key": "key", "secret_key": "{MARKS["s3"]}", "mlflow_password": "{MARKS["mlflow"]}"}}'
    write_private(state / "credentials.json", keys)
    with contextlib.closing(lock), embedded_servers(state, lock, ServerOptions()) as running:
        variables = running.addresses.environment(running.credentials)
        proxy = _Proxy(int(variables["MLFLOW_TRACKING_URI"].rpartition(":")[2]))
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "LLAVA_AV_EMBEDDED"):
            del variables[name]
        login = f"{running.credentials.mlflow_user}:{MARKS['mlflow']}"
        variables["MLFLOW_TRACKING_URI"] = f"http://{login}@127.0.0.1:{proxy.port}"
        variables["HTTPS_PROXY"] = f"http://somebody:{MARKS['proxy']}@127.0.0.1:9"
        with contextlib.closing(proxy):
            yield proxy, variables


def files_with_marks(folder: Path) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(mark.encode() in path.read_bytes() for mark in MARKS.values())
    ]


def test_nothing_of_a_run_holds_a_secret(
    marked: tuple[_Proxy, Mapping[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, variables = marked
    out = tmp_path / "commands" / "out"
    run = ("--quick", *TINY, "--output-dir", str(out))
    # The client asks twice: what the training job says of MLflow is a warning, and it goes on.
    proxy.resets_left = 2
    code, output = llava_av(["dryrun", *run], tmp_path / "commands", environment=variables, timeout_s=800)
    assert code == 0, output
    assert proxy.resets == 2
    assert "`llava-av register` logs the missing metrics" in (out / "logs" / "training.log").read_text()
    key = next(path.name for path in (out / "state" / "work").iterdir() if len(path.name) == 16)
    proxy.resets_left = 1000
    code, refused = llava_av(
        ["register", key, "--output-dir", str(out)], tmp_path / "commands", environment=variables
    )
    assert code == 1
    assert refused.startswith("error: MLflow at http://127.0.0.1:"), refused
    # Both commands printed into files of this folder.
    assert files_with_marks(tmp_path / "commands") == []
    assert set(files_with_marks(tmp_path / "servers")) == {"credentials.json", "seaweedfs/s3.json"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore.from_env()
    held = [
        one.key for one in store.list() if any(m.encode() in store.get_bytes(one.key) for m in MARKS.values())
    ]
    assert held == []
    assert any(one.key.startswith("mlflow/") for one in store.list())
