"""Advice for recipes that do not fit a GPU."""

import re
import shlex

import pytest

from llava_av.cli.options import parsed_overrides
from llava_av.workflows.estimate.advice import GIB, DoesNotFitError, require_fit
from llava_av.workflows.estimate.estimating import Estimator
from tests.estimate_samples import seven_b

EVERYTHING_AGAIN = {"activation_checkpointing": ["vision_tower", "audio_tower", "language"]}
LEAST = EVERYTHING_AGAIN | {"precision": "bf16", "zero_stage": 3}
MANY = LEAST | {"num_processes": 1024, "global_batch_size": 1024}


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    """Return an estimator for all tests, which builds the model of each recipe once."""
    return Estimator()


@pytest.mark.parametrize(
    ("limit_gib", "training", "media", "options"),
    [
        (100, {}, {}, {"training.precision"}),
        (60, {"precision": "bf16"}, {}, {"training.activation_checkpointing"}),
        (32, EVERYTHING_AGAIN | {"precision": "bf16"}, {}, {"training.zero_stage"}),
        (80, {"engine": "torch"}, {}, {"training.activation_checkpointing"}),
        (
            *(50, {}, {}),
            {"training.precision", "training.activation_checkpointing", "training.zero_stage"},
        ),
        (40, LEAST | {"global_batch_size": 64}, {}, {"training.micro_batch_tokens"}),
        (
            80,
            {"num_processes": 1, "global_batch_size": 1} | LEAST,
            {},
            {"--gpus", "training.global_batch_size"},
        ),
        (32, MANY, {"max_frames": 512}, {"media.max_frames"}),
        (35, MANY, {"max_frames": 1, "max_audio_s": 2400}, {"model.trainable_parts"}),
    ],
    ids=[
        *("bfloat16", "language again", "ZeRO 3", "torch", "all three"),
        *("samples", "GPUs", "frames", "connectors"),
    ],
)
def test_a_recipe_that_does_not_fit_names_a_change_that_does(estimator, limit_gib, training, media, options):
    changes = {f"media.{name}": value for name, value in media.items()}
    recipe = seven_b(**training).with_overrides(changes)
    found = estimator.estimate(recipe)
    with pytest.raises(DoesNotFitError) as caught:
        require_fit(estimator, recipe, {"": found}, limit_gib)
    problem, advice = str(caught.value).split("; ", 1)
    assert f"{found.memory.peak / GIB:.1f} GiB" in problem
    named = shlex.split(advice.partition(": ")[2].replace("--set ", ""))
    changes = parsed_overrides([one for one in named if "=" in one], "--set")
    assert {*changes, *(one for one in named if one == "--gpus")} == options
    if "--gpus" in named:
        changes["training.num_processes"] = int(named[named.index("--gpus") + 1])
    peak = estimator.estimate(recipe.with_overrides(changes)).memory.peak
    assert peak <= limit_gib * GIB
    assert re.search(rf"\b{peak / GIB:.1f} GiB", advice)


def test_nothing_is_advised_if_nothing_helps(estimator):
    few = {f"model.{part}.num_hidden_layers": 2 for part in ("vision", "audio", "language")}
    recipe = seven_b().with_overrides(few)
    found = estimator.estimate(recipe)
    with pytest.raises(DoesNotFitError, match=r"media\.max_frames"):
        require_fit(estimator, recipe, {"": found}, 0.1)
    require_fit(estimator, recipe, {"": found}, found.memory.peak / GIB)
