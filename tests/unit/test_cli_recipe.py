"""`llava-av recipe` as a user calls it."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.errors import UserError
from llava_av.model import fresh_model
from llava_av.named_files import FileKind, default_folder
from llava_av.recipe import RecipeError, load_recipe
from tests.model_samples import TEXTS, tiny_model, tiny_recipe


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["recipe", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_recipes_are_listed_as_json() -> None:
    listed = json.loads(CliRunner().invoke(app, ["recipe", "list", "--json"]).output)
    assert {"dryrun", "quick"} <= {one["name"] for one in listed}
    assert all(one["purpose"] for one in listed)


def test_each_shipped_recipe_is_one_line_with_its_purpose() -> None:
    lines = said("list").splitlines()
    assert [line.split()[0] for line in lines] == sorted(
        path.stem for path in default_folder(FileKind.RECIPES).glob("*.yaml")
    )
    assert all(len(line.split()) > 5 for line in lines)


def test_recipes_of_the_project_are_listed_and_replace_those_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("# My clips.\nbase: quick\noverrides: {seed: 7}\n")
    (tmp_path / "recipes" / "plain-order.yaml").write_text("# Mine.\nbase: mine\noverrides: {}\n")
    listed = dict(line.split(maxsplit=1) for line in said("list").splitlines())
    assert (listed["mine"], listed["plain-order"]) == ("My clips.", "Mine.")
    assert "dryrun" in listed
    assert load_recipe("plain-order").seed == load_recipe("mine").seed == 7


def test_a_shown_recipe_has_every_default_and_is_a_recipe_with_the_same_digest(tmp_path: Path) -> None:
    shown = said("show", "quick", "--set", "training.steps=9", "--set", "optimizer.beta1=0.8")
    recipe = load_recipe("quick").with_overrides({"training.steps": 9, "optimizer.beta1": 0.8})
    assert shown.startswith(f"# digest: {recipe.digest()}\n")
    assert yaml.safe_load(shown) == recipe.model_dump(mode="json")
    (tmp_path / "mine.yaml").write_text(shown)
    assert load_recipe(str(tmp_path / "mine.yaml")) == recipe
    assert json.loads(said("show", str(tmp_path / "mine.yaml"), "--json")) == {
        "digest": recipe.digest(),
        "recipe": recipe.model_dump(mode="json"),
    }


def test_a_shown_recipe_leaves_the_media_of_its_base_model_to_that_model(tmp_path: Path) -> None:
    content = load_recipe("quick").model_dump(mode="json")
    content |= {"model": {"base": "/models/a"}, "media": {"max_frames": 7}}
    (tmp_path / "based.yaml").write_text(yaml.safe_dump(content))
    shown = said("show", str(tmp_path / "based.yaml"), "--set", "media.decoder=decord")
    assert yaml.safe_load(shown)["media"] == {"max_frames": 7, "decoder": "decord"}


def test_an_estimate_shows_each_part_and_the_memory_of_a_gpu() -> None:
    model, processor = fresh_model(tiny_recipe(), TEXTS)
    options = ("--set", f"model.vocabulary_size={len(processor.tokenizer)}", "--text-tokens", "100")
    shown = said("estimate", "dryrun", "--gpus", "4", *options)
    found = json.loads(said("estimate", "dryrun", "--gpus", "4", *options, "--json"))
    assert found["model"]["parameters"] == sum(weight.numel() for weight in model.parameters())
    for part in found["model"]["parts"]:
        assert [part["name"], f"{part['parameters']:,}", f"{part['trained']:,}"] in [
            line.split() for line in shown.splitlines()
        ]
    memory = found["memory"]
    for name in ("weights", "gradients", "optimizer_states", "activations", "buffers"):
        assert f"{memory[name] / 2**30:,.3f}" in shown
    assert (found["gpus"], found["engine"], found["zero_stage"], found["samples_per_gpu"]) == (
        *(4, "deepspeed", 2),
        12,
    )
    assert found["tokens_per_step"] == 48 * 152
    changed = {"training.num_processes": 4, "model.vocabulary_size": len(processor.tokenizer)}
    assert found["digest"] == load_recipe("dryrun").with_overrides(changed).digest()


def test_a_recipe_with_a_base_model_has_one_digest(tmp_path: Path) -> None:
    model, _ = tiny_model()
    model.save_pretrained(tmp_path / "model")
    recipe = {"name": "based", "model": {"base": str(tmp_path / "model")}}
    content = json.dumps({**recipe, "training": {"steps": 1, "global_batch_size": 2}})
    shown, found = (
        json.loads(said(*one, "--json")) for one in (["show", content], ["estimate", content, "--gpus", "1"])
    )
    assert found["digest"] == shown["digest"]


def test_a_recipe_that_does_not_fit_fails_after_the_table() -> None:
    arguments = ["recipe", "estimate", "dryrun", "--gpus", "4", "--gpu-memory", "0.2", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--set", "training.global_batch_size=480"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["gpus"] == 4
    assert isinstance(done.exception, UserError)
    assert "--gpu-memory 0.2" in str(done.exception)
    assert "\n" not in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["estimate", "dryrun", "--gpus", "49"], RecipeError, "48 is less than num_processes=49"),
        (["estimate", "absent", "--gpus", "1"], RecipeError, "no recipe 'absent'"),
        (["show", "dryrun", "--set", "training.stepz=3"], RecipeError, r"training\.stepz"),
        (
            ["estimate", '{"name": "a", "model": {"base": "s3://b/c"}, "training": '
             '{"steps": 1, "global_batch_size": 2}}', "--gpus", "1", "--output-dir", "/nowhere/at/all"],
            UserError,
            "/nowhere/at/all has no state",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_errors_of_the_user(arguments, error, message, monkeypatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with pytest.raises(error, match=message):
        said(*arguments)
