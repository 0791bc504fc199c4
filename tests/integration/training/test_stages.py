"""Training in stages, on real processes against a real object store."""

import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file
from torch import Tensor

from llava_av.checkpoints import (
    base_digest,
    fetch_checkpoint,
    model_files,
    push_base,
    read_manifest,
    whole_checkpoints,
)
from llava_av.checkpoints.shard_index import SHARD_INDEX, parse_index
from llava_av.launch import LaunchError
from llava_av.model.conversion.importing import import_model
from llava_av.processes import set_variables
from llava_av.runs import Run
from llava_av.training.rebuilding import rebuild_model
from llava_av.training.stages import stage_seed
from tests.integration.training.jobs import Job, Trained, is_rank, settings, until
from tests.llava_samples import write_audio_tower, write_llava

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

# Losses differ between numbers of processes by at most this, as in tests/integration/test_elastic.py.
TOLERANCE = 2e-5
ALIGN: Mapping[str, Any] = {
    "name": "align",
    "steps": 3,
    "trainable_parts": ["audio_connector"],
    "optimizer": {"learning_rate": 0.01},
}
JOINT: Mapping[str, Any] = {"name": "joint", "steps": 3, "trainable_parts": ["language", "embeddings"]}
OPTIONS: Mapping[str, Any] = MappingProxyType(
    {**settings("torch"), "stages": [ALIGN, JOINT], "training__checkpoint_interval": 2}
)


@pytest.fixture(scope="module")
def whole(job: Job) -> Trained:
    """Return a run whose two stages one job has trained."""
    return job.train("whole", **OPTIONS)


def weights(job: Job, uri: str, folder: Path) -> dict[str, Tensor]:
    """Return the weights of the model in a checkpoint."""
    fetch_checkpoint(job.store, uri, folder, model_files(read_manifest(job.store, uri), uri))
    return load_file(folder / "model" / "model.safetensors")


def model_sha256(job: Job, uri: str) -> str:
    return read_manifest(job.store, uri).files["model/model.safetensors"].sha256


def delete_checkpoints(job: Job, run: str, after: int) -> None:
    """Leave the bucket as a job does that is killed after this step."""
    for one in list(whole_checkpoints(job.store, run)):
        if one.step > after:
            job.store.delete(f"checkpoints/{run}/step-{one.step:08}/manifest.json")
    job.store.delete(f"runs/{run}/train.json")


def test_one_job_trains_all_stages_with_their_own_parts_and_steps(
    job: Job, whole: Trained, tmp_path: Path
) -> None:
    assert whole.column("stage") == [0, 0, 0, 1, 1, 1]
    # Each stage warms up in its first two steps.
    rates = whole.column("learning_rate")
    assert rates[:2] == pytest.approx([0.005, 0.01])
    assert rates[4] == pytest.approx(2 * rates[3])
    assert whole.result["steps"] == 6
    align, joint = whole.result["stages"]
    spans = [(one["name"], one["first_step"], one["last_step"]) for one in (align, joint)]
    assert spans == [("align", 0, 3), ("joint", 3, 6)]
    assert joint["checkpoint"] == whole.result["checkpoint"]
    assert job.store.get_json("runs/whole/stages.json")["stages"] == [align]
    # Pruning keeps two checkpoints of the last stage, and the one that it started from.
    assert [one.step for one in whole_checkpoints(job.store, "whole")] == [6, 5, 3]
    index = parse_index(job.store.get_bytes(f"checkpoints/whole/step-{3:08}/{SHARD_INDEX}"))
    assert {name.split(".")[0] for name in index.updates} <= {"audio_downsampler", "audio_projector"}
    before = weights(job, align["checkpoint"]["uri"], tmp_path / "align")
    after = weights(job, joint["checkpoint"]["uri"], tmp_path / "joint")
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"language_model"}


@pytest.mark.slow
def test_stages_are_the_trainings_that_start_from_each_others_checkpoints(job: Job, whole: Trained) -> None:
    align, joint = whole.result["stages"]
    common = {**settings("torch"), "training__steps": 3, "training__checkpoint_interval": 2}
    first = job.train(
        "first",
        **common,
        model__trainable_parts=ALIGN["trainable_parts"],
        optimizer__learning_rate=0.01,
    )
    assert first.column("loss") == whole.column("loss")[:3]
    assert model_sha256(job, first.result["checkpoint"]["uri"]) == model_sha256(
        job, align["checkpoint"]["uri"]
    )
    uri = first.result["checkpoint"]["uri"]
    with set_variables(job.environment):
        model = {
            "base": uri,
            "base_digest": base_digest(uri),
            "trainable_parts": JOINT["trainable_parts"],
        }
    second = job.train("second", **common, model=model, seed=stage_seed(0, 1))
    assert second.column("loss") == whole.column("loss")[3:]
    assert second.column("grad_norm") == whole.column("grad_norm")[3:]
    assert model_sha256(job, second.result["checkpoint"]["uri"]) == model_sha256(
        job, joint["checkpoint"]["uri"]
    )


@pytest.mark.slow
def test_a_job_resumes_anywhere_with_the_digest_of_an_undisturbed_one(job: Job, whole: Trained) -> None:
    options = {**OPTIONS, "training__keep_latest_checkpoints": 9}
    before = job.train("resumed", **options)
    stages = whole.result["stages"]
    # Inside the second stage, between the stages, before the first one is recorded, inside the first one.
    for after, is_recorded in ((5, True), (3, True), (3, False), (2, False)):
        delete_checkpoints(job, "resumed", after)
        if not is_recorded:
            job.store.delete("runs/resumed/stages.json")
        resumed = job.train("resumed", **options)
        assert resumed.result["resumed_from"] == after
        assert resumed.digest == whole.digest, after
        assert resumed.column("loss") == whole.column("loss"), after
        assert resumed.result["stages"] == before.result["stages"], after
    assert [one["checkpoint"]["digest"] for one in before.result["stages"]] == [
        one["checkpoint"]["digest"] for one in stages
    ]


@pytest.mark.slow
def test_a_stage_whose_checkpoint_is_lost_is_trained_again(job: Job, whole: Trained) -> None:
    job.train("lost", **OPTIONS)
    job.store.delete("checkpoints/lost/step-00000003/manifest.json")
    job.store.delete("runs/lost/train.json")
    again = job.train("lost", **OPTIONS)
    assert again.result["resumed_from"] is None
    assert again.digest == whole.digest


@pytest.mark.slow
def test_a_checkpoint_of_a_stage_that_started_from_another_model_is_skipped(job: Job, whole: Trained) -> None:
    job.train("other", **OPTIONS)
    delete_checkpoints(job, "other", after=5)
    key = "checkpoints/other/step-00000005/manifest.json"
    manifest = job.store.get_json(key)
    manifest["extra"]["recipe"]["model"]["base_digest"] = "0" * 64
    job.store.put_json(key, manifest)
    again = job.train("other", **OPTIONS)
    assert again.result["resumed_from"] == 3
    assert again.digest == whole.digest


@pytest.mark.slow
def test_single_stages_are_trained_by_name_in_their_order(job: Job, whole: Trained) -> None:
    with pytest.raises(LaunchError, match=r"stage joint cannot be trained yet.*stage align"):
        job.launch("single", arguments=("--stage", "joint"), **OPTIONS)
    with pytest.raises(LaunchError, match="no stage 'other': use one of align, joint"):
        job.launch("single", arguments=("--stage", "other"), **OPTIONS)
    job.launch("single", arguments=("--stage", "align"), **OPTIONS)
    assert [one["name"] for one in job.store.get_json("runs/single/stages.json")["stages"]] == ["align"]
    assert not job.store.exists("runs/single/train.json")
    job.launch("single", arguments=("--stage", "align"), **OPTIONS)
    assert "stage align is already trained" in (job.folder / "logs" / "single.log").read_text()
    job.launch("single", arguments=("--stage", "joint"), **OPTIONS)
    last = Trained(job.store, "single")
    assert last.digest == whole.digest
    assert last.column("loss") == whole.column("loss")
    assert [one["name"] for one in last.result["stages"]] == ["align", "joint"]


@pytest.mark.slow
def test_a_stage_resumes_on_another_number_of_processes(job: Job, whole: Trained) -> None:
    job.train("elastic", **OPTIONS)
    delete_checkpoints(job, "elastic", 5)
    alone = job.train("elastic", **{**OPTIONS, **settings("torch", processes=1)})
    assert (alone.result["resumed_from"], alone.result["processes"]) == (5, 1)
    assert alone.column("loss") == pytest.approx(whole.column("loss"), abs=TOLERANCE)


@pytest.mark.slow
def test_a_stage_that_stops_early_leaves_a_gap_and_the_next_one_starts_from_its_result(job: Job) -> None:
    wild = {"name": "wild", "steps": 40, "optimizer": {"learning_rate": 0.5, "warmup_steps": 0}}
    options = {
        **settings("torch"),
        "stages": [wild, {"name": "calm", "steps": 2}],
        "training__checkpoint_interval": 2,
        "training__validation_interval": 2,
        "training__validation_samples": 20,
        "training__early_stopping_patience": 1,
        "training__result_checkpoint": "best",
    }
    stopped = job.train("early", **options)
    first, second = stopped.result["stages"]
    assert first["last_step"] < 40
    assert first["checkpoint"]["step"] == first["best"]["step"] == first["last_step"] - 2
    assert [row["step"] for row in stopped.rows] == [*range(first["last_step"]), 40, 41]
    assert stopped.result["steps"] == first["last_step"] + 2
    assert (second["first_step"], second["last_step"]) == (40, 42)
    delete_checkpoints(job, "early", first["last_step"])
    job.store.delete("runs/early/stages.json")
    again = job.train("early", **options)
    assert again.digest == stopped.digest
    assert again.rows[-1]["loss"] == stopped.rows[-1]["loss"]


@pytest.mark.slow
def test_a_mix_of_a_stage_selects_for_it_alone(job: Job) -> None:
    few = {"name": "few", "steps": 2, "mix": {"demo": {"max_samples": 8}}, "global_batch_size": 8}
    trained = job.train("capped", **settings("torch"), stages=[few, {"name": "all", "steps": 1}])
    positions = [
        read_manifest(job.store, stage["checkpoint"]["uri"]).data_position
        for stage in trained.result["stages"]
    ]
    assert positions == [
        {"step": 2, "samples": 16, "stage": 0},
        {"step": 3, "samples": 16, "stage": 1},
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "zero_stage"), [("torch", 2), ("deepspeed", 2), ("deepspeed", 3)])
def test_the_memory_of_a_stage_is_free_when_the_next_one_starts(
    job: Job, engine: str, zero_stage: int
) -> None:
    options = {**OPTIONS, **settings(engine, stage=zero_stage)}
    run = f"freed-{engine}-{zero_stage}"
    job.launch(run, module="tests.staged_models", **options)
    trained = Trained(job.store, run)
    assert trained.column("stage") == [0, 0, 0, 1, 1, 1]
    delete_checkpoints(job, run, 5)
    assert job.train(run, **options).digest == trained.digest


LONG: Mapping[str, Any] = MappingProxyType(
    {**OPTIONS, "stages": [{**ALIGN, "steps": 2}, {**JOINT, "steps": 30}], "training__checkpoint_interval": 3}
)


@pytest.fixture(scope="module")
def calm(job: Job) -> Trained:
    return job.train("calm", **LONG)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_in_the_second_stage_costs_at_most_the_interval(
    job: Job, calm: Trained, number: signal.Signals
) -> None:
    run = f"hit-{number.name}"
    journal = job.folder / "work" / run / run / "metrics.jsonl"
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(job.train, run, by_torchrun=True, **LONG)
        until(lambda: training.done() or (journal.exists() and journal.read_bytes().count(b"\n") > 8))
        [found] = [one for one in psutil.Process().children(recursive=True) if is_rank(one, 1, run)]
        found.send_signal(number)
        with pytest.raises(LaunchError) as caught:
            training.result(timeout=120)
    [newest, *_] = whole_checkpoints(job.store, run)
    assert newest.step > 2
    if number == signal.SIGTERM:
        assert f"ended by SIGTERM after step {newest.step} of 32" in str(caught.value)
    again = job.train(run, **LONG)
    assert again.result["resumed_from"] == newest.step
    assert again.digest == calm.digest


@pytest.mark.slow
def test_the_last_stage_trains_an_adapter_of_the_model_before_it(job: Job, tmp_path: Path) -> None:
    source = write_llava("llava_onevision", tmp_path / "source")
    import_model(source, tmp_path / "model", audio=write_audio_tower(tmp_path / "audio"))
    pushed = push_base(job.store, tmp_path / "model", "staged")
    model = {
        "base": pushed.uri,
        "base_digest": pushed.digest,
        "trainable_parts": ["audio_connector"],
        "adapter": {"rank": 2},
    }
    stages = [{**ALIGN, "adapter": False}, {"name": "joint", "steps": 3}]
    options = {**OPTIONS, "model": model, "stages": stages}
    run = "57a9edada97edada"
    trained = job.train(run, **options)
    align, joint = trained.result["stages"]
    files = read_manifest(job.store, joint["checkpoint"]["uri"]).files
    assert {"model/adapter_config.json", "model/base.json"} <= set(files)
    fetch_checkpoint(job.store, joint["checkpoint"]["uri"], tmp_path / "joint", ["model/base.json"])
    assert align["checkpoint"]["uri"] in (tmp_path / "joint" / "model" / "base.json").read_text()
    job.evaluate(run)
    found = job.store.get_json(f"runs/{run}/evaluation.json")["checkpoint"]
    assert found["digest"] == trained.digest


def test_the_model_of_any_checkpoint_of_a_stage_can_be_rebuilt(
    job: Job, whole: Trained, tmp_path: Path
) -> None:
    for number, stage in enumerate(whole.result["stages"]):
        target = tmp_path / str(number)
        uri = stage["checkpoint"]["uri"]
        with set_variables(job.environment):
            rebuild_model(Run(store=job.store, id="whole"), uri, tmp_path / "work", target)
        saved, rebuilt = (
            weights(job, uri, tmp_path / f"saved-{number}"),
            load_file(target / "model.safetensors"),
        )
        assert set(saved) == set(rebuilt)
        assert all(saved[name].equal(rebuilt[name]) for name in saved)
