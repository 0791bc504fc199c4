"""Embedded servers end with their owner, and the next command starts after any end."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from llava_av.errors import UserError
from llava_av.services import ServiceError, service_environment, services_down, services_up
from llava_av.services.servers import ServerOptions, embedded_servers
from llava_av.services.state import StateLock
from llava_av.storage import ObjectStore
from tests.server_processes import below, embedded, lives, own_children, wait_until

pytestmark = pytest.mark.integration


# Holds the servers of a state folder until it is told to end, and says when they work.
HOLDER = """
import pathlib, signal, sys, time
from llava_av.services import service_environment
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))
# What a shell starts in the background ignores SIGINT, and so would this process.
signal.signal(signal.SIGINT, signal.default_int_handler)
with service_environment(pathlib.Path(sys.argv[1]), need_mlflow=sys.argv[2] == "mlflow"):
    pathlib.Path(sys.argv[3]).touch()
    time.sleep(600)
"""


def hold(state: Path, ready: Path, what: str = "store") -> "subprocess.Popen[str]":
    # Without the variables of servers that this process has.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW"))
    }
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state), what, str(ready)],
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: ready.exists() or process.poll() is not None, 200)
    if process.poll() is not None:
        pytest.fail(process.communicate()[1])
    return process


def socket_files(state: Path) -> list[Path]:
    ports = json.loads((state / "seaweedfs" / "ports.json").read_text())
    # Other killed servers may have left sockets of other kinds with the same port numbers.
    kinds = {option: option.replace(".port", "").replace(".", "-") for option in ports}
    paths = [Path(f"/tmp/seaweedfs-{kinds[option]}-{port}.sock") for option, port in ports.items()]
    return [path for path in paths if path.exists()]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_no_server_outlives_its_command(tmp_path: Path, number: signal.Signals) -> None:
    state = tmp_path / "state"
    what = "mlflow" if number == signal.SIGKILL else "store"
    process = hold(state, tmp_path / "ready", what)
    servers = psutil.Process(process.pid).children(recursive=True)
    assert len(servers) == (4 if what == "mlflow" else 2)
    process.send_signal(number)
    process.communicate(timeout=15)
    wait_until(lambda: not any(lives(server) for server in servers), 15)
    # The next command is not stopped by the dead one's lock, and cleans up behind it.
    leftover = socket_files(state) if number == signal.SIGKILL else []
    assert bool(leftover) == (number == signal.SIGKILL)
    with service_environment(state, need_mlflow=False):
        ObjectStore.from_env().probe()
    assert not any(path.exists() for path in leftover)


@pytest.mark.slow
def test_mlflow_starts_during_the_block_after_it_was_killed_while_it_made_its_database(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    server = [sys.executable, "-m", "llava_av.services.mlflow_server", "--folder", str(state)]
    server += ["--artifacts", "s3://bucket/mlflow", "--port-file", str(state / "mlflow.port")]
    killed = subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: tables(state / "mlflow.part") > 5, 120)
    killed.kill()
    killed.wait()
    assert not (state / "mlflow.db").exists()
    with (
        contextlib.closing(StateLock(state, "command")) as lock,
        embedded_servers(state, lock, ServerOptions(wait_for_mlflow=False)) as running,
    ):
        # The request waits for the server by itself.
        with urllib.request.urlopen(f"{running.addresses.mlflow}/health", timeout=120) as answer:
            assert answer.status == 200
        running.check()


def tables(database: Path) -> int:
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0)
        ) as connection:
            return connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet, or locked
        return 0


def test_a_server_that_ends_under_a_command_is_named_as_the_cause(tmp_path: Path) -> None:
    state = tmp_path / "state"
    others = own_children()
    with pytest.raises(ServiceError, match=r"the embedded SeaweedFS ended: .*log: "), embedded(state):
        fail_without(own_children() - others)


def fail_without(guards: set[psutil.Process]) -> None:
    for server in below(guards):  # each guard then ends by itself
        server.kill()
    wait_until(lambda: not any(lives(guard) for guard in guards), 15)
    raise UserError("what the failed step says")


@pytest.mark.slow
def test_a_killed_command_is_followed_by_the_next_at_once(tmp_path: Path) -> None:
    state = tmp_path / "state"
    process = hold(state, tmp_path / "ready")
    process.kill()
    with service_environment(state, need_mlflow=False):
        ObjectStore.from_env().probe()
    process.communicate(timeout=15)


def test_a_second_command_on_the_same_folder_is_told_whom_to_wait_for(tmp_path: Path) -> None:
    state = tmp_path / "state"
    process = hold(state, tmp_path / "ready")
    with pytest.raises(ServiceError) as caught, embedded(state):
        pass
    text = str(caught.value)
    assert f"in use by process {process.pid}" in text
    assert "wait for it" in text
    assert "--output-dir" in text
    assert "`llava-av services up`" in text
    for call in (services_up, services_down):
        with pytest.raises(ServiceError, match=f"in use by process {process.pid}"):
            call(state)
    process.terminate()
    process.communicate(timeout=15)


@pytest.mark.slow
def test_two_side_by_side_do_not_meet(tmp_path: Path) -> None:
    with embedded(tmp_path / "a") as first:
        one = ObjectStore.from_env(first)
        one.put_bytes("key", b"first")
        process = hold(tmp_path / "b", tmp_path / "ready")
        process.terminate()
        process.communicate(timeout=15)
        assert process.returncode == 3
        assert one.get_bytes("key") == b"first"
