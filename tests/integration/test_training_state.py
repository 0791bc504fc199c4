"""Saving and restoring the state of a training by one process, against a real S3 server."""

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from torch import distributed

from benchmarks.checkpoint_stall import measure, report
from llava_av.checkpoints import CheckpointError, CheckpointRef, whole_checkpoints
from llava_av.processes import STORE_RETRY_VARIABLE
from llava_av.runs import Run as Opened
from llava_av.runs import Starts
from llava_av.storage import ObjectStore, StoreError
from llava_av.training.checkpointer import Checkpointer
from llava_av.training.engines.torch_engine import TorchEngine
from tests.fault_proxy import ALWAYS, FaultProxy, fault_proxy
from tests.model_samples import clip, tiny_model, tiny_recipe

pytestmark = pytest.mark.integration

TURNS = [("human", "What do you hear?"), ("gpt", "red")]


@dataclass
class Training:
    """A tiny model with its engine, whose checkpoints are those of one run."""

    checkpointer: Checkpointer
    engine: TorchEngine
    batch: dict

    def step(self) -> None:
        self.engine.backward(self.engine.model(**self.batch).loss, last=True)
        self.engine.step(1e-3)

    def save(self, step: int) -> CheckpointRef:
        """Save the state, and wait until the checkpoint is complete."""
        self.checkpointer.save(step)
        saved = self.checkpointer.finish()
        assert saved is not None
        return saved


class Run:
    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.name = uuid.uuid4().hex[:16]

    def begin(self) -> Training:
        recipe = tiny_recipe(training__num_processes=1)
        model, processor = tiny_model()
        engine = TorchEngine(model.train(), recipe)
        checkpointer = Checkpointer(self.store, self.name, recipe, engine, model, processor, self.folder)
        return Training(checkpointer, engine, processor.collate([processor.encode(TURNS, clip())]))

    def trained(self, steps: int) -> list[CheckpointRef]:
        training = self.begin()
        saved = []
        for step in range(steps):
            training.step()
            saved.append(training.save(step + 1))
        return saved

    def damage(self, ref: CheckpointRef) -> None:
        key = f"{self.store.key(ref.uri)}/state/rank-00000-0000.safetensors"
        content = bytearray(self.store.get_bytes(key))
        content[len(content) // 2] ^= 1
        self.store.put_bytes(key, bytes(content))

    def rename(self, ref: CheckpointRef) -> None:
        """Give the checkpoint the digest of another state."""
        key = f"{self.store.key(ref.uri)}/manifest.json"
        manifest = self.store.get_json(key)
        self.store.put_json(key, manifest | {"digest": "0" * 64})


@pytest.fixture(scope="module", autouse=True)
def _group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def run(store_environment: Mapping[str, str], tmp_path: Path) -> Run:
    store = ObjectStore.from_env(store_environment)
    store.ensure_bucket()
    return Run(store, tmp_path)


@pytest.fixture
def proxied(
    store_environment: Mapping[str, str], run: Run, tmp_path: Path
) -> Iterator[tuple[FaultProxy, Run]]:
    """Yield a proxy before the server and a run that uses it, without repeated attempts."""
    endpoint = "AWS_ENDPOINT_URL_S3"
    with fault_proxy(urlsplit(store_environment[endpoint]).netloc) as proxy:
        changed = {endpoint: proxy.url, STORE_RETRY_VARIABLE: "0"}
        yield proxy, Run(ObjectStore.from_env({**store_environment, **changed}), tmp_path / "proxied")


@pytest.mark.parametrize("fault", ["damage", "rename"])
def test_a_faulty_newest_checkpoint_is_passed_over_and_replaced(
    run: Run, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = run.trained(2)
    getattr(run, fault)(second)
    again = run.begin()
    assert again.checkpointer.restore() == first
    assert second.uri in caplog.text
    again.step()
    assert again.save(2) == second
    assert next(whole_checkpoints(run.store, run.name)) == second
    assert run.begin().checkpointer.restore() == second


def test_training_begins_anew_if_every_checkpoint_is_damaged(run: Run) -> None:
    for ref in run.trained(2):
        run.damage(ref)
    again = run.begin()
    before = {name: weight.clone() for name, weight in again.engine.weights().items()}
    assert again.checkpointer.restore() is None
    assert all(weight.equal(before[name]) for name, weight in again.engine.weights().items())


def test_a_state_that_is_not_what_was_saved_is_an_error_if_there_is_no_older_one(run: Run) -> None:
    [only] = run.trained(1)
    run.rename(only)
    with pytest.raises(CheckpointError, match=f"{only.uri}: its state has digest .* not 0000"):
        run.begin().checkpointer.restore()


def test_old_checkpoints_go_when_pruning_is_asked_for(run: Run) -> None:
    refs = run.trained(4)
    assert list(whole_checkpoints(run.store, run.name)) == refs[:1:-1]


def test_training_goes_on_while_a_checkpoint_is_written_and_it_holds_the_state_of_its_step(
    run: Run, proxied: tuple[FaultProxy, Run]
) -> None:
    proxy, slow = proxied
    calm = run.trained(1)[0]
    training = slow.begin()
    training.step()
    proxy.fail("slow", ALWAYS)
    training.checkpointer.save(1)
    training.step()
    assert training.checkpointer.stepped() is None
    assert not list(whole_checkpoints(run.store, slow.name))
    proxy.fail(None)
    saved = training.checkpointer.finish()
    assert saved is not None
    assert saved.digest == calm.digest
    assert slow.begin().checkpointer.restore() == saved


def test_an_upload_that_fails_ends_the_training_at_a_following_step(proxied: tuple[FaultProxy, Run]) -> None:
    proxy, run = proxied
    training = run.begin()
    training.step()
    proxy.fail("500", ALWAYS)
    training.checkpointer.save(1)
    with pytest.raises(StoreError, match="HTTP 500"), training.checkpointer:
        step_until_complete(training.checkpointer)


def step_until_complete(checkpointer: Checkpointer) -> None:
    end = time.monotonic() + 60
    while checkpointer.stepped() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_job_that_another_one_followed_writes_no_checkpoint(run: Run) -> None:
    first = run.begin()
    first.step()
    opened = Opened(store=run.store, id=run.name)
    opened.write(Starts(starts=2))
    with pytest.raises(CheckpointError, match=f"run {run.name}: another job of this run has started"):
        first.save(1)
    assert not list(whole_checkpoints(run.store, run.name))
    second = run.begin()
    second.step()
    assert second.save(1) == next(whole_checkpoints(run.store, run.name))


def test_the_benchmark_of_the_stall_runs(run: Run, tmp_path: Path) -> None:
    found = measure(run.store, tmp_path, gigabytes=0.001, rounds=1, width=64)
    assert found.bytes == pytest.approx(1e6, rel=0.1)
    assert any("asynchronous wait" in line for line in report(found.seconds, found.bytes))
