"""Training that resumes on other processes, in another ZeRO stage, or after a kill while saving."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from llava_av.launch import LaunchError
from tests.engine_group import ENGINES, run_group
from tests.fault_proxy import ALWAYS, FaultProxy, fault_proxy
from tests.integration.training.jobs import STEPS, Job, settings, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

# The worst case measured is 5e-7, for a job from two processes to three; engines alone differ by 9e-8.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def saved(folder: Path) -> Any:
    return run_group("tests.resharding", str(folder), "save", timeout_s=300)


@pytest.mark.parametrize("processes", [1, 3])
def test_shards_of_any_engine_load_into_any_sharding(saved: Any, folder: Path, processes: int) -> None:
    found = run_group("tests.resharding", str(folder), "load", timeout_s=600, processes=processes)
    assert len(found) == 2 * len(ENGINES)
    for name, one in found.items():
        before = name.split()[0]
        assert one["weights"] == saved[before]["weights"], name
        assert one["frozen"] > 50, name
        assert one["updates"] == [2.0], name
        assert one["losses"] == pytest.approx(saved[before]["losses"], abs=TOLERANCE), name


@pytest.fixture(scope="module")
def job(servers, forks, tmp_path_factory: pytest.TempPathFactory) -> Job:
    from llava_av.datasets.demo import make_demo

    root = tmp_path_factory.mktemp("demo")
    named = {"LLAVA_AV_BUCKET": "test-elastic", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    environment = {**servers.environment(mlflow=False), **named}
    demo = root, make_demo(root, seed=0, train_blocks=1, held_out_blocks=1)
    return Job(environment, demo, tmp_path_factory.mktemp("training"), forks)


@pytest.mark.parametrize(
    ("engine", "before", "after"),
    [
        ("torch", (2, 2), (3, 2)),
        ("torch", (1, 2), (2, 2)),
        ("deepspeed", (2, 2), (1, 3)),
        ("deepspeed", (2, 3), (3, 1)),
    ],
)
def test_a_run_resumes_on_other_hardware(
    job: Job, engine: str, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """A step has the same samples if its losses by kind are the same."""
    batch = {"training__global_batch_size": 12}
    whole = job.trained(**settings(engine, processes=before[0], stage=before[1]), **batch)
    resumed = job.resume(whole.run, **settings(engine, processes=after[0], stage=after[1]), **batch)
    assert resumed.result["resumed_from"] == 4
    assert resumed.result["processes"] == after[0]
    assert resumed.result["checkpoint"]["step"] == STEPS
    for old, new in zip(whole.rows, resumed.rows, strict=True):
        names = {name for name in old if name.startswith("loss")}
        assert names == {name for name in new if name.startswith("loss")}
        for name in names:
            assert new[name] == pytest.approx(old[name], abs=TOLERANCE), (old["step"], name)


@pytest.fixture
def proxy(job: Job) -> Iterator[FaultProxy]:
    with fault_proxy(urlsplit(job.environment["AWS_ENDPOINT_URL_S3"]).netloc) as running:
        yield running


def test_a_kill_while_a_checkpoint_is_uploaded_leaves_the_one_before(job: Job, proxy: FaultProxy) -> None:
    every = {**settings("torch"), "training__checkpoint_interval": 2}
    held = {"AWS_ENDPOINT_URL_S3": proxy.url}
    proxy.fail("held shards", ALWAYS)
    journal = job.folder / "work" / "killed" / "killed" / "metrics.jsonl"
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(job.train, "killed", by_torchrun=True, environment=held, **every)
        # Training goes on while the shards after four steps are not written.
        until(
            lambda: training.done() or (journal.exists() and len(journal.read_text().splitlines()) == STEPS)
        )
        assert not job.store.exists("checkpoints/killed/step-00000004/manifest.json")
        ranks = [one for one in psutil.Process().children(recursive=True) if "killed" in one.cmdline()]
        for rank in ranks:
            rank.kill()
        with pytest.raises(LaunchError):
            training.result(timeout=60)
    resumed = job.train("killed", **every)
    assert resumed.result["resumed_from"] == 2
    assert resumed.digest == job.train("undisturbed", **every).digest
