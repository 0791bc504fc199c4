"""Estimates against what engines really keep and save, and of a base model in a real object store."""

import pytest
from typer.testing import CliRunner

from llava_av.checkpoints import push_base
from llava_av.cli.app import app
from llava_av.storage import ObjectStore
from llava_av.workflows.estimate.estimating import Estimator
from tests.engine_group import ENGINES, run_group
from tests.engine_sizes import PRECISIONS
from tests.model_samples import tiny_model, tiny_recipe

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def really():
    return run_group("tests.engine_sizes", timeout_s=250)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ENGINES)
def test_memory_and_files_of_engines_are_those_of_a_real_step(really, name: str, precision: str) -> None:
    found, (kind, stage) = really[f"{name} {precision}"], ENGINES[name]
    recipe = tiny_recipe(
        training__engine=kind,
        training__zero_stage=stage,
        training__precision=precision,
        model__video_newline="frame",
        model__vocabulary_size=found["vocabulary"],
    )
    estimated = Estimator().estimate(recipe)
    memory = estimated.memory
    # FSDP gives rank zero the larger half of a tensor with an odd number of rows.
    assert found["weights"] == pytest.approx(memory.weights, rel=1e-4)
    assert found.get("gradients", memory.gradients) == pytest.approx(memory.gradients, rel=1e-4)
    # DeepSpeed adds a step count for each group of weights.
    assert found["optimizer_states"] == pytest.approx(memory.optimizer_states, rel=1e-4)
    # The worst case measured is 1.7 %: the names and headers of a model this small.
    assert found["files"] == pytest.approx(estimated.checkpoint_bytes, rel=0.02)


def test_of_a_base_model_in_s3_only_the_config_is_read(store_environment, tmp_path, monkeypatch) -> None:
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore.from_env()
    store.ensure_bucket()
    model, processor = tiny_model()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    base = push_base(store, tmp_path / "model", "tiny").uri
    # Nothing could load the weights now.
    store.put_bytes(f"{store.key(base)}/model/model.safetensors", b"damaged")
    recipe = tiny_recipe(model={"base": base}).model_dump_json()
    arguments = ["recipe", "estimate", recipe, "--gpus", "2", "--output-dir", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert f"{sum(weight.numel() for weight in model.parameters()):,}" in done.output
