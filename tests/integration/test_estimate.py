"""Estimates against what DeepSpeed really keeps and saves, and of a base model in a real object store."""

import pytest
from typer.testing import CliRunner

from llava_av.checkpoints import push_base
from llava_av.cli.app import app
from llava_av.storage import ObjectStore
from llava_av.workflows.estimate.estimating import Estimator
from tests.engine_group import run_group
from tests.engine_sizes import STAGES
from tests.model_samples import tiny_model, tiny_recipe

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def really():
    return run_group("tests.engine_sizes", timeout_s=250)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", STAGES)
def test_optimizer_states_and_files_of_zero_are_those_of_a_real_step(really, stage: int) -> None:
    found = really[str(stage)]
    recipe = tiny_recipe(training__zero_stage=stage, model__vocabulary_size=found["vocabulary"])
    estimated = Estimator().estimate(recipe)
    # DeepSpeed adds a step count for each of its seven groups.
    states = estimated.memory.optimizer_states
    assert states <= found["optimizer_states"] <= states + 7 * 4
    files = estimated.checkpoint_bytes - 4 * estimated.model.parameters
    # The worst case measured is 1.3 %: the names and headers of a model this small.
    assert files == pytest.approx(found["files"], rel=0.015)


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
