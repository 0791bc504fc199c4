"""Held-out loss during training, datasets in a mix, and the end of a training that gets worse."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from llava_av.checkpoints import read_manifest, whole_checkpoints
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.demo import make_demo
from tests.integration.training.jobs import STEPS, Job, settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

VALIDATION: Mapping[str, Any] = MappingProxyType(
    {"training__validation_interval": 2, "training__validation_samples": 20}
)


@pytest.mark.slow
# Stages 1 and 2 gather no weights.
@pytest.mark.parametrize(("engine", "stage"), [("torch", 2), ("deepspeed", 3)])
def test_measuring_the_held_out_loss_does_not_change_training(job: Job, engine: str, stage: int) -> None:
    options = settings(engine, stage=stage)
    plain = job.trained(**options)
    measured = job.train(f"measured-{engine}-{stage}", **options, **VALIDATION)
    assert measured.digest == plain.digest
    assert measured.column("loss") == plain.column("loss")
    found = {row["step"] + 1: row["held_out/loss"] for row in measured.rows if "held_out/loss" in row}
    assert list(found) == [2, 4, 6]
    assert found[6] < found[2] < 10
    last = measured.rows[-1]
    by_modality = [value for name, value in last.items() if name.startswith("held_out/loss/modality/")]
    assert min(by_modality) <= last["held_out/loss"] <= max(by_modality)
    best = measured.result["best"]
    assert (best["step"], best["held_out_loss"]) == (6, found[6])
    # The demonstration's chunks of one process and of two are padded differently.
    if engine == "torch":
        alone = job.train("measured-alone", **settings("torch", processes=1), **VALIDATION)
        assert alone.rows[1]["held_out/loss"] == pytest.approx(found[2], abs=2e-5)


@pytest.mark.slow
def test_a_mix_of_datasets_is_trained_on_in_the_same_order_by_any_number_of_processes(
    job: Job, tmp_path: Path
) -> None:
    splits = make_demo(tmp_path, seed=5, train_blocks=1, held_out_blocks=1)
    second = commit_dataset(job.store, "second", tmp_path, splits, ())
    mix = {"demo": {"weight": 1, "max_samples": 20}, "second": {"weight": 3}}
    options = {"further": (second,), "data__mix": mix, "training__warmup_kind_steps": 0, **VALIDATION}
    both = job.train("mixed", **settings("torch"), **options)
    alone = job.train("mixed-alone", **settings("torch", processes=1), **options)
    assert alone.column("loss") == pytest.approx(both.column("loss"), abs=2e-5)
    assert alone.column("mix/demo") == both.column("mix/demo")
    for row in both.rows:
        assert row["mix/demo"] + row["mix/second"] == 1
    last, first, other = both.rows[-1], *both.result["mix"]
    by_dataset = [last[f"held_out/loss/dataset/{name}"] for name in ("demo", "second")]
    assert min(by_dataset) <= last["held_out/loss"] <= max(by_dataset)
    assert (first["name"], first["samples"], first["wanted_share"]) == ("demo", 20, 0.25)
    assert other["samples"] == len(splits["train"])
    assert first["observed_share"] == pytest.approx(sum(both.column("mix/demo")) / STEPS)


@pytest.mark.slow
def test_training_that_gets_worse_stops_early_with_its_best_checkpoint_also_after_a_kill(job: Job) -> None:
    options = {
        **settings("torch"),
        **VALIDATION,
        "training__checkpoint_interval": 2,
        "training__keep_latest_checkpoints": 1,
        "training__result_checkpoint": "best",
        "training__early_stopping_patience": 1,
        "optimizer__warmup_steps": 0,
        "optimizer__learning_rate": 0.5,
        "training__steps": 40,
    }
    stopped = job.train("stops-early", **options)
    found = {row["step"] + 1: row["held_out/loss"] for row in stopped.rows if "held_out/loss" in row}
    best, last = min(found, key=lambda step: found[step]), max(found)
    assert (stopped.result["steps"], last) == (last, best + 2)
    assert last < 40
    assert stopped.result["checkpoint"]["step"] == stopped.result["best"]["step"] == best
    assert [one.step for one in whole_checkpoints(job.store, "stops-early")] == [last, best]
    files = read_manifest(job.store, stopped.result["checkpoint"]["uri"]).files
    assert any(name.startswith("model/") for name in files)
    job.store.delete("runs/stops-early/train.json")
    again = job.train("stops-early", **options)
    assert again.result["resumed_from"] == again.result["steps"] == last
    assert again.result["best"] == stopped.result["best"]
    assert again.rows == stopped.rows
