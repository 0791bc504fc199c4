"""Trainings that end early, and checkpoints that are damaged or forged."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from llava_av.checkpoints import read_manifest, verify_checkpoint, whole_checkpoints
from llava_av.launch import LaunchError
from llava_av.processes.heartbeat import SILENCE_LIMIT_VARIABLE
from llava_av.recipe import load_recipe
from llava_av.tracking.journal import parse_rows
from tests.forged_files import Calls, archived
from tests.integration.training.jobs import STEPS, Job, is_rank, settings, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.mark.parametrize("engine", ["torch", pytest.param("deepspeed", marks=pytest.mark.slow)])
def test_a_loss_that_is_not_finite_ends_training_with_the_samples(job: Job, engine: str) -> None:
    run = f"diverging-{engine}"
    every = {"training__checkpoint_interval": 1, "training__keep_latest_checkpoints": 1}
    with pytest.raises(LaunchError, match=r"training stopped at step \d: the \w+.* is not finite \(samples "):
        job.train(run, optimizer__learning_rate=1e30, **settings(engine), **every)
    report = job.store.get_json(f"runs/{run}/not-finite.json")
    assert len(report["samples"]) == load_recipe("quick").training.global_batch_size
    assert set(report["culprits"]) <= set(report["samples"])
    kept = list(whole_checkpoints(job.store, run))
    assert kept[0].step == report["step"] > 0
    assert not job.store.exists(f"runs/{run}/train.json")


@pytest.mark.slow
def test_a_stopped_rank_ends_training_with_its_name_and_the_stacks_of_the_others(job: Job) -> None:
    limit = {"training__steps": 5_000, **settings("torch")}
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(
            job.train, "stopped", by_torchrun=True, environment={SILENCE_LIMIT_VARIABLE: "5"}, **limit
        )
        journal = job.folder / "work" / "stopped" / "stopped" / "metrics.jsonl"
        until(lambda: training.done() or (journal.exists() and len(journal.read_text().splitlines()) > 2))
        [stopped] = [one for one in psutil.Process().children(recursive=True) if is_rank(one, 1)]
        stopped.suspend()
        with pytest.raises(
            LaunchError, match=rf"rank 1 \(pid {stopped.pid} on host .* sent no heartbeat for 5 s"
        ):
            training.result(timeout=60)
    log = (job.folder / "logs" / "stopped.log").read_text()
    assert "most recent call first" in log
    assert "llava_av/training/trainer.py" in log


@pytest.mark.slow
def test_sigterm_to_one_rank_saves_the_step_and_ends_all_ranks_and_training_resumes(job: Job) -> None:
    run, saved = "terminated", 0
    for rank in (1, 0):
        error = _terminated(job, run, rank, after=saved + 2)
        [newest, *_] = whole_checkpoints(job.store, run)
        assert newest.step > saved
        assert f"ended by SIGTERM after step {newest.step} of 5000" in error
        assert len(parse_rows(job.store.get_bytes(f"runs/{run}/metrics.jsonl").decode())) == newest.step
        log = (job.folder / "logs" / f"{run}.log").read_text()
        assert "exitcode  : 143" in log
        assert (f"resumes from step {saved}" in log) == (saved > 0)
        saved = newest.step


def _terminated(job: Job, run: str, rank: int, after: int) -> str:
    """Train, send SIGTERM to one rank once the journal has more than `after` steps, and return the error."""
    options = {"training__steps": 5_000, "training__checkpoint_interval": 5_000, **settings("torch")}
    journal = job.folder / "work" / run / run / "metrics.jsonl"

    def is_reached() -> bool:
        return training.done() or (journal.exists() and len(journal.read_text().splitlines()) > after)

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(job.train, run, by_torchrun=True, **options)
        until(is_reached)
        [found] = [one for one in psutil.Process().children(recursive=True) if is_rank(one, rank, run)]
        found.terminate()
        with pytest.raises(LaunchError) as caught:
            training.result(timeout=120)
    return str(caught.value)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_skipped_and_replaced(job: Job) -> None:
    whole = job.trained(**settings("torch"))
    job.forget_the_end(whole.run)
    uri = job.store.uri(f"checkpoints/{whole.run}/step-{4:08}")
    name = next(name for name in read_manifest(job.store, uri).files if name.startswith("state/rank"))
    key = f"{job.store.key(uri)}/{name}"
    content = bytearray(job.store.get_bytes(key))
    content[-1] ^= 1
    job.store.put_bytes(key, bytes(content))
    again = job.train(whole.run, **settings("torch"))
    assert again.result["resumed_from"] is None
    assert again.digest == whole.digest
    verify_checkpoint(job.store, uri, digest=read_manifest(job.store, uri).digest)


def test_a_forged_checkpoint_runs_no_code_and_ends_in_one_line(job: Job, tmp_path: Path) -> None:
    whole = job.trained(**settings("deepspeed"))
    name = "state/rank-00001-0000.safetensors"
    forged = archived(Calls(os.system, f"touch {tmp_path / 'ran'}"))
    job.copy_forged(whole.run, "forged", name, forged)
    refused = rf"forged/step-{STEPS:08}: a file is not a safetensors file .*delete this"
    with pytest.raises(LaunchError, match=refused):
        job.train("forged", **settings("deepspeed"))
    assert list(tmp_path.iterdir()) == []
    assert not job.store.exists("runs/forged/train.json")
