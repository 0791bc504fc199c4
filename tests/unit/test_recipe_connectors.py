"""Connectors of a fresh model, checked when its recipe is read."""

import inspect

import pytest

from llava_av.model.connector.audio_downsamplers import AUDIO_DOWNSAMPLERS
from llava_av.model.connector.projectors import ACTIVATIONS, PROJECTORS
from llava_av.model.connector.resamplers import RESAMPLERS
from llava_av.recipe import RecipeError
from llava_av.recipe.connectors import CONNECTOR_OPTIONS
from tests.model_samples import tiny_recipe

CLASSES = {
    "resampler": RESAMPLERS.classes,
    "vision_projector": PROJECTORS.classes,
    "audio_downsampler": AUDIO_DOWNSAMPLERS.classes,
    "audio_projector": PROJECTORS.classes,
}
GIVEN = {"width", "heads", "width_in", "width_out"}


@pytest.mark.parametrize("role", CONNECTOR_OPTIONS)
def test_options_are_those_that_the_classes_take(role):
    assert CONNECTOR_OPTIONS[role].keys() == CLASSES[role].keys()
    for kind, options in CONNECTOR_OPTIONS[role].items():
        taken = {
            name: parameter.default
            for name, parameter in inspect.signature(CLASSES[role][kind]).parameters.items()
            if name not in GIVEN and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        }
        known = {
            name: inspect.Parameter.empty if field.is_required() else field.default
            for name, field in options.model_fields.items()
        }
        assert known == taken, kind


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_allowed(activation):
    assert tiny_recipe(model__vision_projector_options={"activation": activation})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resampler": "pool"}, r"resampler='pool' is unknown.*spatial_pool"),
        ({"resampler_options": {"strid": 2}}, r"spatial_pool has no option 'strid'.*stride, mode"),
        ({"resampler_options": {"stride": 0}}, r"stride: .*greater than or equal to 1"),
        ({"resampler_options": {"stride": "2"}}, r"stride: .*integer"),
        ({"resampler": "perceiver", "resampler_options": {}}, r"perceiver: queries: .*required"),
        ({"vision_projector_options": {"layers": 1}}, r"vision_projector_options of mlp: layers"),
        ({"audio_projector_options": {"activation": "tanh"}}, r"audio_projector_options of mlp: activation"),
        (
            {"audio_downsampler": "convolution", "audio_downsampler_options": {"kernel": 2, "stride": 3}},
            r"kernel=2 must be ≥ stride=3",
        ),
    ],
)
def test_a_wrong_connector_is_one_line_when_the_recipe_is_read(changes, message):
    with pytest.raises(RecipeError, match=message) as caught:
        tiny_recipe(**{f"model__{name}": value for name, value in changes.items()})
    assert "\n" not in str(caught.value)


def test_connectors_of_an_absent_modality_are_not_checked():
    assert tiny_recipe(model__audio=None, model__audio_downsampler_options={"no": 1}).model.audio is None


@pytest.mark.parametrize(("absent", "part"), [("audio", "audio_tower"), ("vision", "vision_connector")])
def test_settings_of_a_part_that_a_fresh_model_lacks_are_refused(absent, part):
    with pytest.raises(RecipeError, match=rf"optimizer\.parts has {part}, which the model lacks"):
        tiny_recipe(
            **{f"model__{absent}": None, "optimizer__parts": {part: {"learning_rate": 1e-4}}},
        )
