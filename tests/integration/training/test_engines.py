"""Training with each engine, number of processes and precision: equal losses, and exact resumption."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava_av.checkpoints import fetch_checkpoint
from llava_av.launch import LaunchError
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor, load_saved_model
from tests.integration.training.jobs import Job, settings
from tests.model_samples import clip

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.mark.slow
def test_engines_and_numbers_of_processes_give_the_same_losses(job: Job) -> None:
    """The largest observed difference between the engines is 5e-7, between one process and two 2e-6."""
    alone = job.trained(**settings("torch", processes=1))
    plain = job.trained(**settings("torch"))
    deepspeed = job.trained(**settings("deepspeed"))
    assert plain.column("loss") == pytest.approx(deepspeed.column("loss"), abs=5e-6)
    assert plain.column("grad_norm") == pytest.approx(deepspeed.column("grad_norm"), abs=1e-3)
    assert alone.column("loss") == pytest.approx(plain.column("loss"), abs=2e-5)
    assert len({run.digest for run in (alone, plain, deepspeed)}) == 3


@pytest.mark.parametrize(
    ("engine", "stage"), [("torch", 2), pytest.param("deepspeed", 3, marks=pytest.mark.slow)]
)
def test_resumed_training_ends_with_the_digest_of_an_undisturbed_one(
    job: Job, engine: str, stage: int
) -> None:
    whole = job.trained(**settings(engine, stage=stage))
    bad_samples = f"runs/{whole.run}/bad-samples.json"
    assert not job.store.exists(bad_samples)
    before, after = ({"id": f"failed-{step}", "reason": "it is cut short", "step": step} for step in (3, 4))
    job.store.put_json(bad_samples, {"samples": [before, after]})
    resumed = job.resume(whole.run, earlier_names=True, **settings(engine, stage=stage))
    assert resumed.result["resumed_from"] == 4
    assert resumed.digest == whole.digest
    assert resumed.column("loss") == whole.column("loss")
    # The steps after the checkpoint are repeated, and no sample fails in them now.
    assert resumed.result["unfit"] == [{"id": "failed-3", "reason": "it is cut short"}]
    assert job.store.get_json(bad_samples) == {"samples": [before]}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_bf16_resumes_exactly_and_saves_a_bf16_model(job: Job, tmp_path: Path, engine: str) -> None:
    options = {**settings(engine), "training__precision": "bf16"}
    whole = job.trained(**options)
    resumed = job.resume(whole.run, **options)
    assert (resumed.result["resumed_from"], resumed.digest) == (4, whole.digest)
    assert whole.digest != job.trained(**settings(engine)).digest
    assert whole.column("loss") == pytest.approx(job.trained(**settings(engine)).column("loss"), rel=0.02)
    fetch_checkpoint(job.store, whole.result["checkpoint"]["uri"], tmp_path)
    model, _ = load_saved_model(tmp_path / "model")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_packed_training_resumes_and_has_the_losses_of_unpacked_training(job: Job) -> None:
    """The same samples in fewer rows, with the tolerance that one process has against two.

    Sums are taken in another order, so weights differ from the second step on, and the digests with them.
    """
    packing = {**settings("deepspeed"), "training__pack_length": 150}
    apart = job.trained(**settings("deepspeed"))
    packed = job.train("packed", **packing)
    assert packed.column("loss") == pytest.approx(apart.column("loss"), abs=2e-5)
    by_kind = {name for row in apart.rows for name in row if name.startswith("loss/")}
    for first, second in zip(apart.rows, packed.rows, strict=True):
        assert {name: second.get(name) for name in by_kind} == {
            name: None if name not in first else pytest.approx(first[name], abs=1e-4) for name in by_kind
        }
    resumed = job.resume("packed", **packing)
    assert resumed.result["resumed_from"] == 4
    assert resumed.digest == packed.digest
    with pytest.raises(LaunchError, match=r"sample .*: \d+ tokens, but training\.pack_length=20"):
        job.train("narrow", training__pack_length=20)


@pytest.mark.slow
def test_zero_3_exports_a_whole_model_with_the_answers_of_zero_2(job: Job, tmp_path: Path) -> None:
    """Single weights differ by up to 2e-4, as the first steps of Adam make of any gradient a whole step.

    Weights that no gradient reaches, such as biases of keys, have rounding errors alone for one.
    """
    losses, weights = [], []
    for stage in (2, 3):
        options = {"training__zero_stage": stage, "training__steps": 2, "optimizer__max_grad_norm": 1e9}
        trained = job.train(f"stage-{stage}", **options)
        folder = tmp_path / f"stage-{stage}"
        fetch_checkpoint(job.store, trained.result["checkpoint"]["uri"], folder)
        model, info = LlavaAvForConditionalGeneration.from_pretrained(
            folder / "model", output_loading_info=True
        )
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert trained.result["parameters"] == sum(weight.numel() for weight in model.parameters())
        weights.append(model.state_dict())
        processor = LlavaAvProcessor.from_pretrained(folder / "model")
        batch = processor.collate([processor.encode([("human", "What?"), ("gpt", "red")], clip())])
        losses.append(model.eval()(**batch).loss.item())
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=4e-3, rtol=0)
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the loopback interface has another name elsewhere")
def test_nodes_with_disks_of_their_own_write_and_read_one_checkpoint(job: Job) -> None:
    whole = job.trained(**settings("deepspeed"))
    apart = job.train_on_nodes("apart", 2)
    assert apart.digest == whole.digest
    job.forget_the_end("apart")
    resumed = job.train_on_nodes("apart", 2)
    assert resumed.result["resumed_from"] == 4
    assert resumed.digest == whole.digest


@pytest.mark.slow
def test_deepspeed_is_imported_without_mlflow_which_stays_importable() -> None:
    code = (
        "import sys; from llava_av.training.engines.deepspeed_engine import import_deepspeed as load; "
        "load(); assert 'mlflow' not in sys.modules; import mlflow; load(); print(mlflow.__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.stdout.endswith("mlflow\n"), found.stderr
