"""Real servers: one SeaweedFS a session, MLflow beside it once a test asks for it, a bucket for each test."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llava_av.services.servers import Running, ServerOptions, embedded_servers
from llava_av.services.state import StateLock
from llava_av.storage import ObjectStore
from tests.forked_group import ForkServer
from tests.interface_requests import CONTENT, KEY

# A server of another make to run the tests of the store against, MinIO for example.
_FOREIGN = {
    "AWS_ENDPOINT_URL_S3": "LLAVA_AV_TEST_S3_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID": "LLAVA_AV_TEST_S3_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY": "LLAVA_AV_TEST_S3_SECRET_ACCESS_KEY",
}
_MLFLOW = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
_OURS = (*_FOREIGN, *_MLFLOW, "AWS_REGION", "LLAVA_AV_BUCKET", "LLAVA_AV_LIFELINE")


@dataclass
class _Servers:
    """Servers on one state folder, started by the first test that needs them."""

    state: Path
    stack: contextlib.ExitStack
    started: dict[bool, dict[str, str]] = field(default_factory=dict)

    def folder(self, *, mlflow: bool) -> Path:
        return self.state / ("mlflow" if mlflow else "store")

    def environment(self, *, mlflow: bool) -> dict[str, str]:
        if mlflow not in self.started:
            folder = self.folder(mlflow=mlflow)
            lock = StateLock(folder, "command")
            self.stack.callback(lock.close)
            options = ServerOptions(mlflow=mlflow)
            running: Running = self.stack.enter_context(embedded_servers(folder, lock, options))
            self.started[mlflow] = running.addresses.environment(running.credentials)
        return dict(self.started[mlflow])


class _Buckets:
    """Empty buckets that accept writes at once; a thread prepares the next one while a test runs.

    SeaweedFS creates the volumes of a bucket at the first write. One writer waits 0.2 s for them, concurrent
    writers 1 s.
    """

    def __init__(self, environment: Mapping[str, str], thread: ThreadPoolExecutor) -> None:
        self._environment = environment
        self._thread = thread
        self._next = thread.submit(self._prepare)

    def take(self) -> dict[str, str]:
        """Return the variables of a bucket that no other test gets."""
        ready, self._next = self._next, self._thread.submit(self._prepare)
        return ready.result()

    def _prepare(self) -> dict[str, str]:
        environment = {**self._environment, "LLAVA_AV_BUCKET": f"test-{uuid.uuid4().hex}"}
        store = ObjectStore.from_env(environment)
        store.ensure_bucket()
        store.probe()
        return environment


@pytest.fixture(autouse=True)
def _no_servers_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _OURS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Servers]:
    with contextlib.ExitStack() as stack:
        yield _Servers(tmp_path_factory.mktemp("servers"), stack)


@pytest.fixture(scope="session")
def forks() -> ForkServer:
    """Return a process that has imported the modules of jobs; groups are forked from it."""
    return ForkServer()


def _foreign_store() -> dict[str, str] | None:
    found = {name: os.environ.get(variable, "") for name, variable in _FOREIGN.items()}
    return found if all(found.values()) else None


@pytest.fixture(scope="session")
def buckets(servers: _Servers) -> Iterator[_Buckets]:
    with ThreadPoolExecutor(1) as thread:
        yield _Buckets(_foreign_store() or servers.environment(mlflow=False), thread)


@pytest.fixture
def store_environment(buckets: _Buckets) -> Mapping[str, str]:
    """Return the variables of a real object store with an empty bucket of this test's own."""
    return buckets.take()


@pytest.fixture
def mlflow_environment(servers: _Servers) -> Mapping[str, str]:
    """Variables of an object store and MLflow, shared by the tests of the session; the bucket exists."""
    return servers.environment(mlflow=True)


@pytest.fixture
def mlflow_store(
    mlflow_environment: Mapping[str, str],
    store_environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> ObjectStore:
    """Create a bucket for this test; MLflow is the session's."""
    both = {**mlflow_environment, "LLAVA_AV_BUCKET": store_environment["LLAVA_AV_BUCKET"]}
    for name, value in both.items():
        monkeypatch.setenv(name, value)
    made = ObjectStore.from_env()
    made.ensure_bucket()
    return made


@pytest.fixture
def mlflow_state(servers: _Servers) -> Path:
    """State folder of the servers of `mlflow_environment`."""
    return servers.folder(mlflow=True)


@pytest.fixture
def ports(
    mlflow_environment: Mapping[str, str], mlflow_state: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, int]:
    """Return the port of each interface by name; the bucket holds one object with `CONTENT`."""
    for name, value in mlflow_environment.items():
        monkeypatch.setenv(name, value)
    ObjectStore.from_env().put_bytes(KEY, CONTENT)
    found: dict[str, int] = json.loads((mlflow_state / "seaweedfs" / "ports.json").read_text())
    return {**found, "mlflow": urlsplit(mlflow_environment["MLFLOW_TRACKING_URI"]).port or 0}


@pytest.fixture
def unharmed(ports: dict[str, int]) -> Iterator[None]:
    """After the test the object and MLflow's experiments are what they were."""
    from mlflow import MlflowClient

    def experiments() -> set[str]:
        return {found.name for found in MlflowClient().search_experiments()}

    before = experiments()
    yield
    assert ObjectStore.from_env().get_bytes(KEY) == CONTENT
    assert experiments() == before
