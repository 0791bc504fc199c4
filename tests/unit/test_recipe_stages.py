"""Stages of a recipe: their values, their steps, overrides by name, and what is refused."""

import json
from typing import Any

import pytest

from llava_av.recipe import Recipe, RecipeError, load_recipe
from llava_av.training.stage_progress import indices_to_train
from llava_av.training.stages import stage_seed

ALIGN = {
    "name": "align",
    "steps": 4,
    "trainable_parts": ["audio_connector"],
    "optimizer": {"learning_rate": 0.01},
}
JOINT: dict[str, Any] = {"name": "joint", "steps": 6}


def staged(*stages: dict[str, Any], **changes: Any) -> Recipe:
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    return load_recipe("quick").with_overrides({"stages": list(stages or (ALIGN, JOINT)), **changed})


def test_a_stage_replaces_only_the_fields_that_it_sets() -> None:
    whole = staged(ALIGN, {**JOINT, "mix": {"clips": {"weight": 2}}, "global_batch_size": 16})
    plain = load_recipe("quick")
    align, joint = whole.of_stage(0), whole.of_stage(1)
    assert align == plain.with_overrides(
        {
            "training.steps": 4,
            "model.trainable_parts": ["audio_connector"],
            "optimizer.learning_rate": 0.01,
        }
    )
    assert joint == plain.with_overrides(
        {"training.steps": 6, "data.mix": {"clips": {"weight": 2}}, "training.global_batch_size": 16}
    )
    assert plain.of_stage(0) == plain


def test_settings_of_parts_are_kept_for_the_parts_that_a_stage_trains() -> None:
    parts = {"language": {"learning_rate": 1e-4}, "audio_connector": {"learning_rate": 1e-3}}
    whole = staged(optimizer__parts=parts)
    assert set(whole.of_stage(0).optimizer.parts) == {"audio_connector"}
    assert whole.of_stage(1).optimizer.parts == whole.optimizer.parts


def test_the_schedule_has_each_stage_after_the_one_before() -> None:
    schedule = staged().schedule
    assert [(span.name, span.first, span.end) for span in schedule.spans] == [
        ("align", 0, 4),
        ("joint", 4, 10),
    ]
    found = [(span.name, local) for span, local in map(schedule.at, (0, 3, 4, 9))]
    assert found == [("align", 0), ("align", 3), ("joint", 0), ("joint", 5)]
    [only] = load_recipe("quick").schedule.spans
    assert (only.name, only.first, only.end) == ("", 0, load_recipe("quick").training.steps)


def test_the_steps_of_a_training_are_the_sum_of_its_stages_steps() -> None:
    whole = staged()
    assert whole.training.steps == 10
    assert whole.with_overrides({"stages.align.steps": 1}).training.steps == 7
    assert load_recipe(whole.canonical_json()) == whole
    content = json.loads(whole.canonical_json())
    del content["training"]["steps"]
    assert load_recipe(json.dumps(content)) == whole
    content["training"]["steps"] = 11
    with pytest.raises(RecipeError, match=r"training\.steps=11 is not the sum of the stages' steps, 10"):
        load_recipe(json.dumps(content))
    content["training"]["steps"] = None
    content["stages"][0]["steps"] = "4"
    assert load_recipe(json.dumps(content)) == whole


def test_steps_of_a_training_do_not_contradict_epochs_of_its_stages() -> None:
    whole = staged({"name": "align", "epochs": 2}, JOINT)
    assert load_recipe(whole.canonical_json()) == whole
    content = whole.stated()
    for given in (6, 1, 40):
        content["training"]["steps"] = given
        if given == JOINT["steps"]:
            assert load_recipe(json.dumps(content)) == whole
            continue
        with pytest.raises(RecipeError, match=rf"training\.steps={given} is not .* epochs"):
            load_recipe(json.dumps(content))


def test_fields_of_a_stage_are_overridden_by_its_name() -> None:
    changed = staged().with_overrides(
        {
            "stages.joint.steps": 3,
            "stages.joint.optimizer.warmup_steps": 2,
            "stages.joint.optimizer.parts.language.learning_rate": 1e-4,
            "stages.joint.mix.clips.max_samples": 5,
            "stages.align.trainable_parts": ["vision_connector"],
        }
    )
    joint = changed.of_stage(1)
    assert (joint.training.steps, joint.optimizer.warmup_steps) == (3, 2)
    assert joint.optimizer.learning_rate == load_recipe("quick").optimizer.learning_rate
    assert joint.optimizer.of_part("language").learning_rate == 1e-4
    assert joint.data.max_samples("clips") == 5
    assert changed.of_stage(0).model.trainable_parts == ("vision_connector",)
    assert changed.of_stage(0).optimizer.learning_rate == 0.01


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.steps": 3}, r"'training\.steps'.*: set stages\.align\.steps, stages\.joint\.steps"),
        ({"stages.other.steps": 3}, r"'stages\.other\.steps': the recipe has the stages align, joint"),
        ({"stages.align.stepz": 3}, r"did you mean stages\.align\.steps\?"),
        ({"stages.align.optimizer.rate": 3}, r"'stages\.align\.optimizer\.rate', which is not a field"),
        ({"stages.align": 3}, "'stages.align'"),
        ({"stages.align.steps": 0}, r"stages\.0\.steps: .*got 0"),
        ({"stages.align.optimizer.learning_rate": -1}, r"stages\.0\.optimizer\.learning_rate: .*got -1"),
        ({"stages.align.optimizer.parts.language.weight_decay": 0}, "stage align: .*language.*not in"),
        ({"stages.joint.global_batch_size": 1}, "stage joint: .*global_batch_size=1 .*num_processes=2"),
        ({"stages.align.trainable_parts": []}, "stage align: .*trainable_parts is empty"),
        ({"stages.joint.warmup_kinds": []}, "stage joint: .*needs warmup_kinds"),
        ({"stages.joint.name": "align"}, "names align, align"),
        ({"stages.joint.name": "Joint"}, "got 'Joint'"),
        ({"stages": [{"name": "align"}]}, "stage align has steps=None"),
        ({"stages": [3]}, r"stages\.0: .* mapping, got 3"),
        ({"stages": 3}, "stages: .* list, got 3"),
        ({"optimizer.parts": {"vision_connector": {"weight_decay": 0}}}, "vision_connector, not in"),
    ],
    ids=str,
)
def test_invalid_stages_are_an_error_in_one_line(overrides: dict[str, Any], message: str) -> None:
    recipe = staged(ALIGN, {**JOINT, "trainable_parts": ["language"]})
    with pytest.raises(RecipeError, match=message) as caught:
        recipe.with_overrides(overrides)
    assert "\n" not in str(caught.value)


def test_an_override_of_a_stage_is_an_error_without_stages() -> None:
    with pytest.raises(RecipeError, match="the recipe has no stages"):
        load_recipe("quick").with_overrides({"stages.align.steps": 3})


def test_stages_can_be_removed_again() -> None:
    plain = load_recipe("quick")
    back = staged().with_overrides({"stages": [], "training.steps": plain.training.steps})
    assert back.digest() == plain.digest()
    assert staged().with_overrides({"stages": []}).training.steps == 10


def test_steps_of_epochs_are_not_those_of_a_training_without_stages() -> None:
    whole = staged({"name": "align", "epochs": 2}, JOINT)
    with pytest.raises(RecipeError, match=r"training: .*neither steps nor epochs"):
        whole.with_overrides({"stages": []})
    assert whole.with_overrides({"stages": [], "training.epochs": 3}).training.epochs == 3
    assert whole.with_overrides({"stages": [], "training.steps": 3}).training.steps == 3


def test_the_digest_depends_only_on_fields_that_stages_set() -> None:
    recipe = staged()
    assert recipe.digest() != load_recipe("quick").digest()
    assert staged({**ALIGN, "adapter": True, "mix": None}, JOINT).digest() == recipe.digest()
    assert recipe.with_overrides({"stages.align.optimizer.warmup_steps": 1}).digest() != recipe.digest()


def test_only_the_last_stage_trains_an_adapter() -> None:
    model = {"base": "/models/m", "trainable_parts": ["audio_connector"], "adapter": {"rank": 2}}
    with pytest.raises(RecipeError, match=r"stage align trains model\.adapter.*set adapter to false"):
        staged(model=model)
    recipe = staged({**ALIGN, "adapter": False}, JOINT, model=model)
    assert recipe.of_stage(0).model.adapter is None
    assert recipe.of_stage(1).model.adapter == recipe.model.adapter
    assert recipe.of_stage(0).model.updated_text == "audio_connector"
    assert recipe.of_stage(1).model.updated_text == "audio_connector, language (LoRA)"
    weight_decomposed = recipe.with_overrides({"model.adapter.dora": True}).of_stage(1)
    assert weight_decomposed.model.updated_text == "audio_connector, language (DoRA)"
    recipe.require_used_adapter()
    unused = staged({**ALIGN, "adapter": False}, {**JOINT, "adapter": False}, model=model)
    with pytest.raises(RecipeError, match=r"no stage trains model\.adapter.*last stage, joint"):
        unused.require_used_adapter()


def test_a_stage_starts_from_the_model_of_the_one_before() -> None:
    joint = staged().of_stage(1)
    started = joint.with_trained_base("s3://b/checkpoints/r/step-00000004", "0" * 64)
    assert (started.model.base, started.model.base_digest) == (
        "s3://b/checkpoints/r/step-00000004",
        "0" * 64,
    )
    assert started.model.trainable_parts == joint.model.trainable_parts
    assert (started.media, started.training) == (joint.media, joint.training)


def test_every_stage_must_fit_the_datasets_of_a_run() -> None:
    recipe = staged(ALIGN, {**JOINT, "mix": {"clips": {"max_samples": 2}}})
    recipe.require_datasets(["clips"])
    with pytest.raises(RecipeError, match=r"stage joint: data\.mix\.clips is not a dataset of this run"):
        recipe.require_datasets(["demo"])


def test_seeds_of_stages_differ_and_the_first_is_that_of_the_recipe() -> None:
    seeds = [stage_seed(seed, index) for seed in (0, 1, 2**53) for index in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert [stage_seed(seed, 0) for seed in (0, 7)] == [0, 7]
    assert all(0 <= seed <= 2**53 for seed in seeds)


def test_a_stage_that_is_not_in_the_recipe_is_named_with_those_that_are() -> None:
    with pytest.raises(RecipeError, match="no stage 'other': use one of align, joint"):
        indices_to_train(staged(), (), "other")
    with pytest.raises(RecipeError, match="no stage 'align': it has no stages"):
        indices_to_train(load_recipe("quick"), (), "align")


def test_epochs_become_steps_when_the_samples_are_known() -> None:
    mix = {"clips": {"max_samples": 40}}
    recipe = staged({"name": "few", "epochs": 1.5, "mix": mix, "global_batch_size": 8}, JOINT)
    found = recipe.with_steps_of_epochs({"clips": 100, "speech": 30})
    # 1.5 passes over 40 and 30 samples, 8 in each step.
    assert [(stage.steps, stage.epochs) for stage in found.stages] == [(14, None), (6, None)]
    assert found.training.steps == 20
    assert found.with_steps_of_epochs({"clips": 1}) == found
    assert "steps" not in recipe.stated()["training"]
    assert load_recipe(recipe.stated_json()).with_steps_of_epochs({"clips": 100, "speech": 30}) == found


def test_epochs_of_a_training_without_stages_become_steps() -> None:
    changes = {"training.steps": None, "training.epochs": 1.5, "training.global_batch_size": 8}
    recipe = load_recipe("quick").with_overrides({**changes, "data.mix": {"clips": {"max_samples": 40}}})
    assert recipe.has_epochs
    found = recipe.with_steps_of_epochs({"clips": 100, "speech": 30})
    assert (found.training.steps, found.training.epochs, found.has_epochs) == (14, None, False)
    assert load_recipe(recipe.stated_json()).with_steps_of_epochs({"clips": 100, "speech": 30}) == found
    # A recipe that states the steps is the same run.
    same = {"training.steps": 14, "training.global_batch_size": 8, "data.mix": recipe.data.mix}
    assert load_recipe("quick").with_overrides(same).digest() == found.digest()


def test_a_training_has_either_steps_or_epochs() -> None:
    with pytest.raises(RecipeError, match=r"training.*steps=\d+ and epochs=2.*: set one"):
        load_recipe("quick").with_overrides({"training.epochs": 2})
    with pytest.raises(RecipeError, match=r"training: .*neither steps nor epochs"):
        load_recipe("quick").with_overrides({"training.steps": None})
    with pytest.raises(RecipeError, match=r"training\.epochs=2 must be null .* with stages"):
        staged().with_overrides({"training.epochs": 2})


@pytest.mark.parametrize("fields", [{}, {"steps": 1, "epochs": 1}])
def test_a_stage_has_either_steps_or_epochs(fields: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match=r"steps=.* and epochs=.*: set one"):
        staged({"name": "align", **fields})
