"""Stages of a training job: what the first one requires of the later ones."""

from typing import Any

import pytest

from llava_av.errors import UserError
from llava_av.model import LlavaAvConfig
from llava_av.training.stages import require_later_stages
from tests.model_samples import tiny_model, tiny_recipe


@pytest.fixture(scope="module")
def deaf() -> LlavaAvConfig:
    model, _ = tiny_model(model__audio=None)
    return model.config


@pytest.mark.parametrize(
    ("adapted", "parts", "message"),
    [
        ({"language": ["q_prj"]}, ["vision_connector"], "stage joint: .*'q_prj'.*q_proj"),
        ({"audio_tower": "all-linear"}, ["vision_connector"], "stage joint: .*targets has audio_tower"),
        (
            None,
            ["audio_connector", "audio_tower"],
            "stage joint: .*only audio_tower, audio_connector.*name some of v",
        ),
    ],
)
def test_a_later_stage_that_lacks_its_parts_is_an_error_in_the_first(
    deaf: LlavaAvConfig, adapted: dict[str, Any] | None, parts: list[str], message: str
) -> None:
    stages = [
        {"name": "align", "steps": 2, "trainable_parts": ["vision_connector"], "adapter": False},
        {"name": "joint", "steps": 2, "trainable_parts": parts},
    ]
    adapter = adapted and {"targets": adapted}
    base = {"base": "/models/m", "trainable_parts": parts, "adapter": adapter}
    recipe = tiny_recipe(model=base, stages=stages)
    with pytest.raises(UserError, match=message) as caught:
        require_later_stages(recipe, 0, deaf)
    assert "\n" not in str(caught.value)
    # The last stage has none after it.
    require_later_stages(recipe, 1, deaf)


def test_parts_that_the_model_lacks_beside_others_are_left_out(deaf: LlavaAvConfig) -> None:
    parts = ["vision_connector", "audio_connector"]
    stages = [{"name": name, "steps": 2, "trainable_parts": parts} for name in ("align", "joint")]
    base = {"base": "/models/m", "trainable_parts": parts, "adapter": None}
    require_later_stages(tiny_recipe(model=base, stages=stages), 0, deaf)
