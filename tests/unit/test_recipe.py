"""Recipes: reading, rejection, overrides, identity."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from llava_av.named_files import FileKind, default_folder
from llava_av.recipe import Recipe, RecipeError, load_recipe


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in default_folder(FileKind.RECIPES).glob("*.yaml"))
)
def test_recipes_that_come_with_the_code_load(name):
    assert load_recipe(name).name == name


def test_a_recipe_can_start_from_another():
    quick, dryrun = load_recipe("quick"), load_recipe("dryrun")
    assert quick.training.steps < dryrun.training.steps
    assert quick.model == dryrun.model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not valid YAML"),
        ("base: dryrun", "overrides a mapping"),
        ("base: dryrun\noverrides: {training.warmup_kinds: []}", "warmup_kind_steps=200 needs warmup_kinds"),
        ("{base: dryrun, overrides: {}, seed: 1}", "unknown field seed"),
        (
            "{base: dryrun, overrides: {training.engine: torch, training.offload_optimizer: true}}",
            "offload_optimizer=true needs engine=deepspeed, not torch",
        ),
        ("{base: dryrun, overrides: {training.stepz: 1}}", "cannot override 'training.stepz'"),
        ("{base: nowhere, overrides: {}}", "no recipe 'nowhere'"),
        ('{base: "a\\0b", overrides: {}}', r"no recipe .*a\\x00b.*file name"),
        (
            "{base: dryrun, overrides: {training.precission: bf16}}",
            r"field; did you mean training\.precision\?",
        ),
        ("{base: dryrun, overrides: {trainig.steps: 1}}", r"not a field; did you mean training\.steps\?"),
        (
            "{base: dryrun, overrides: {optimizer.parts.language.learning_rat: 1}}",
            r"language\.learning_rat: unknown field; did you mean learning_rate\?",
        ),
        ("{base: dryrun, overrides: {wholly.different: 1}}", "which is not a field$"),
        (
            "{base: dryrun, overrides: {model.adapter.rank: 8}}",
            r"'model\.adapter\.rank': model\.adapter is null; .* --set 'model\.adapter={rank: …}'",
        ),
        ("{base: dryrun, overrides: {model.adapter.nothing: 8}}", "which is not a field$"),
        (
            "{base: dryrun, overrides: {data.mix: {clips: {weight:2}}}}",
            r"data\.mix\.clips\.weight:2: unknown field; .* a space after the colon: weight: 2$",
        ),
        ("{base: dryrun, overrides: {data.mix.clips.weight: 0}}", r"data\.mix\.clips\.weight: .*, got 0"),
        (
            "{name: x, model: {language: {}}, training: {stepz: 1}}",
            r"stepz: unknown field; did you mean steps\?",
        ),
        ("{name: x, sead: 1, training: {}}", r"sead: unknown field; did you mean seed\?"),
        (
            "{name: x, model: {language: {}, qqqq: 1}, training: {steps: 1, global_batch_size: 2}}",
            r"model\.qqqq: unknown field$",
        ),
        ("{name: x}", "model"),
        ("{base: dryrun, overrides: {training.steps: 0}}", "training.steps"),
        ("{base: dryrun, overrides: {training.global_batch_size: 1}}", "is less than num_processes=2"),
        ("{base: dryrun, overrides: {media.decoder: vlc}}", "media.decoder"),
        ("{base: dryrun, overrides: {optimizer.learning_rate: true}}", "learning_rate=true must not be"),
        ("{base: dryrun, overrides: {model.vision: {eps: [1, .nan]}}}", r"eps\.1=nan is not a finite number"),
        ("{base: dryrun, overrides: {model.resampler_options: {a: -.inf}}}", "a=-inf is not a finite number"),
        (f"{{base: dryrun, overrides: {{seed: {'9' * 5000}}}}}", "not valid YAML"),
        ("{base: 2026-13-45}", "not valid YAML: .*month must be"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_the_fault(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)
    assert not re.search("Value error|Extra inputs|got {", str(caught.value))


def test_single_datasets_of_a_mix_can_be_overridden():
    recipe = load_recipe("quick").with_overrides({"data.mix.clips.weight": 2, "data.mix.speech.weight": 1})
    assert (recipe.data.weight("clips"), recipe.data.weight("speech")) == (2, 1)
    assert recipe.with_overrides({"data.mix.clips.max_samples": 5}).data.max_samples("clips") == 5


def numbers(model: type[BaseModel] = Recipe, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted path and JSON schema of each field of a recipe that is a number."""
    for name, field in model.model_fields.items():
        inner = [one for one in (field.annotation, *get_args(field.annotation)) if isinstance(one, type)]
        below = [one for one in inner if issubclass(one, BaseModel)]
        if below:
            yield from numbers(below[0], f"{path}{name}.")
            continue
        schema = model.model_json_schema()["properties"][name]
        for one in (schema, *schema.get("anyOf", ())):
            if one.get("type") in ("number", "integer") and "enum" not in one:
                yield f"{path}{name}", one


NUMBERS = dict(numbers())


def test_every_number_has_a_range():
    assert len(NUMBERS) > 30
    for path, schema in NUMBERS.items():
        assert {"minimum", "exclusiveMinimum"} & set(schema), path
        assert {"maximum", "exclusiveMaximum"} & set(schema), path


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "1.0e+400", "1e400", "-1e400", "'nan'", "-1001"])
def test_a_number_out_of_its_range_is_one_line_that_names_it(tmp_path, path, text):
    name = path.rpartition(".")[2]
    file = tmp_path / "mine.yaml"
    if path.startswith("stages."):
        *parents, leaf = path.split(".")[1:]
        inner = f"{leaf}: {text}"
        for parent in reversed(parents):
            inner = f"{parent}: {{{inner}}}"
        path, text = "stages", f"[{{name: a, {'' if leaf in ('steps', 'epochs') else 'steps: 1, '}{inner}}}]"
    if path.startswith("model.slow_fast."):
        both = {"every": 2, "stride": 1, name: text}
        path, text = "model.slow_fast", "{{every: {every}, stride: {stride}}}".format(**both)
    file.write_text(f"base: dryrun\noverrides: {{{path}: {text}}}")
    with pytest.raises(RecipeError, match=name) as caught:
        load_recipe(str(file))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_one_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(RecipeError, match=r"mine\.yaml: not valid YAML: .*byte 0xff"):
        load_recipe(str(path))


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.symlink_to(path)
    with pytest.raises(RecipeError, match=r"mine\.yaml: cannot be read: .*symbolic links"):
        load_recipe(str(path))


def test_a_recipe_may_be_its_own_json():
    recipe = load_recipe("quick")
    assert load_recipe(recipe.canonical_json()) == recipe
    with pytest.raises(RecipeError, match=r"recipe in JSON: .*line 1 column 2"):
        load_recipe("{nonsense")


def test_a_missing_recipe_names_those_there_are():
    with pytest.raises(RecipeError, match=r"one of: .*dryrun, .*plain-order, quick"):
        load_recipe("drynur")


@given(steps=st.integers(1, 10_000), rate=st.floats(1e-6, 1))
def test_overrides_change_the_digest_and_nothing_else(steps, rate):
    recipe = load_recipe("quick")
    changed = recipe.with_overrides({"training.steps": steps, "optimizer.learning_rate": rate})
    assert (changed.training.steps, changed.optimizer.learning_rate) == (steps, rate)
    assert (changed.digest() == recipe.digest()) == (changed == recipe)
    back = {
        "training.steps": recipe.training.steps,
        "optimizer.learning_rate": recipe.optimizer.learning_rate,
    }
    assert changed.with_overrides(back) == recipe


@pytest.mark.parametrize(
    "overrides",
    [
        {"optimizer": {1: 2}},
        {"optimizer": {None: 2}},
        {"model.train": [["vision"]]},
        {"model.trainable_parts": [{"a": 1}]},
        {"model.trainable_parts": "vision_tower"},
        {"optimizer.parts": ["vision_tower"]},
        {"optimizer.parts.vision_tower": 3},
        {"optimizer.parts.vision_tower.learning_rate.high": 3},
    ],
    ids=str,
)
def test_values_of_another_form_are_one_line(overrides):
    with pytest.raises(RecipeError, match=r"^recipe quick"):
        load_recipe("quick").with_overrides(overrides)


def test_a_derived_recipe_of_another_form_is_one_line(tmp_path):
    for text in ("{base: quick, overrides: {1: 2}}", "{base: quick, 1: 2, x: 3, overrides: {}}"):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(RecipeError):
            load_recipe(str(tmp_path / "mine.yaml"))
