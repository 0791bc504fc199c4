"""Training that a signal ends in the middle resumes on the same or other processes, with every engine.

An object store that holds the shards of the checkpoint after four steps stops training after six steps, in
the save that waits for this checkpoint, so that each signal comes at the same moment.
"""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from llava_av.checkpoints import whole_checkpoints
from llava_av.launch import LaunchError
from tests.fault_proxy import ALWAYS, FaultProxy, fault_proxy
from tests.forked_group import ForkServer
from tests.integration.training.jobs import Job, Trained, settings, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, HELD, WAITING = 8, 4, 6
# The worst case measured is 2e-6, between one process and two (training/test_engines.py).
TOLERANCE = 2e-5
KILL, TERM = signal.SIGKILL, signal.SIGTERM
ENGINES = {
    "torch": ("torch", 2),
    "zero-1": ("deepspeed", 1),
    "zero-2": ("deepspeed", 2),
    "zero-3": ("deepspeed", 3),
}
CASES = [
    # Signal, engine before and after, processes before and after: each engine with both signals.
    (KILL, "torch", "torch", 1, 2),
    (TERM, "torch", "torch", 3, 1),
    (KILL, "zero-1", "zero-2", 2, 3),
    (TERM, "zero-1", "zero-3", 2, 1),
    (KILL, "zero-2", "zero-3", 3, 2),
    (TERM, "zero-2", "zero-2", 1, 3),
    (KILL, "zero-3", "zero-1", 2, 1),
    (TERM, "zero-3", "zero-3", 1, 2),
    (KILL, "torch", "torch", 2, 2),
    (TERM, "zero-3", "zero-3", 2, 2),
]


@pytest.fixture(scope="module")
def job(servers, forks, tmp_path_factory: pytest.TempPathFactory) -> Job:
    from llava_av.datasets.demo import make_demo

    root = tmp_path_factory.mktemp("demo")
    named = {"LLAVA_AV_BUCKET": "test-resume-matrix", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    environment = {**servers.environment(mlflow=False), **named}
    demo = root, make_demo(root, seed=0, train_blocks=1, held_out_blocks=1)
    return Job(environment, demo, tmp_path_factory.mktemp("training"), forks)


@pytest.fixture
def proxy(job: Job) -> Iterator[FaultProxy]:
    with fault_proxy(urlsplit(job.environment["AWS_ENDPOINT_URL_S3"]).netloc) as running:
        yield running


def options(engine: str, processes: int) -> dict[str, Any]:
    name, stage = ENGINES[engine]
    every = {"training__steps": STEPS, "training__checkpoint_interval": 2, "training__global_batch_size": 12}
    return {**settings(name, processes=processes, stage=stage), **every}


def undisturbed(job: Job, engine: str, processes: int) -> Trained:
    """Return the result of a job that nothing ends, trained once for several tests."""
    run = f"undisturbed-{engine}-{processes}"
    if run not in job.known:
        job.known[run] = job.train(run, **options(engine, processes))
    return job.known[run]


def ended(
    job: Job, forks: ForkServer, proxy: FaultProxy, run: str, number: signal.Signals, **chosen: Any
) -> str:
    """Train until the checkpoint is held, send a signal to the last rank, and return the error."""
    journal = job.folder / "work" / run / run / "metrics.jsonl"
    proxy.fail("held shards", ALWAYS)
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(job.train, run, environment={"AWS_ENDPOINT_URL_S3": proxy.url}, **chosen)
        try:
            until(
                lambda: training.done() or (journal.exists() and journal.read_text().count("\n") == WAITING)
            )
        except AssertionError:
            # The pool waits for the job.
            for rank in forks.ranks():
                rank.kill()
            raise
        ranks = forks.ranks()
        assert len(ranks) == chosen["training__num_processes"]
        ranks[-1].send_signal(number)
        # The other ranks write their shards, and then miss the killed one, or save and end with it.
        proxy.fail(None)
        proxy.stopped.set()
        with pytest.raises(LaunchError) as caught:
            training.result(timeout=120)
    return str(caught.value)


@pytest.mark.parametrize(
    ("number", "engine", "then", "before", "after"),
    CASES,
    ids=[f"{case[0].name}-{case[1]}-{case[2]}-{case[3]}-{case[4]}" for case in CASES],
)
def test_a_run_resumes_after_a_signal(
    job: Job,
    forks: ForkServer,
    proxy: FaultProxy,
    number: signal.Signals,
    engine: str,
    then: str,
    before: int,
    after: int,
) -> None:
    run = f"{number.name.lower()}-{engine}-{then}-{before}-{after}"
    error = ended(job, forks, proxy, run, number, **options(engine, before))
    [newest, *_] = whole_checkpoints(job.store, run)
    if number is KILL:
        # The interval is lost: the held checkpoint never became whole.
        assert newest.step == HELD - 2
    else:
        assert newest.step == WAITING + 1
        assert f"ended by SIGTERM after step {newest.step} of {STEPS}" in error
    resumed = job.train(run, **options(then, after))
    assert resumed.result["resumed_from"] == newest.step
    assert (resumed.result["steps"], resumed.result["processes"]) == (STEPS, after)
    assert resumed.column("step") == list(range(STEPS))
    for old, new in zip(undisturbed(job, "torch", 2).rows, resumed.rows, strict=True):
        # The samples are the same if the losses by kind are.
        names = {name for name in old if name.startswith("loss")}
        assert names == {name for name in new if name.startswith("loss")}
        for name in names:
            assert new[name] == pytest.approx(old[name], abs=TOLERANCE), (old["step"], name)
    if (engine, before) == (then, after):
        assert resumed.digest == undisturbed(job, engine, before).digest
