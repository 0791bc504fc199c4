"""Recipes with field names of an earlier version: accepted with a warning, with the same run ID."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llava_av.experiments.changes import recipe_changes
from llava_av.experiments.completeness import problems
from llava_av.experiments.records import read_record
from llava_av.model.configuration import LlavaAvConfig
from llava_av.recipe import (
    RENAMED_FIELDS,
    Recipe,
    RecipeError,
    TrainingRecipe,
    current_names,
    load_recipe,
)
from llava_av.recipe.reference import page_with_reference
from llava_av.recipe.renaming import warn_of_earlier_names
from llava_av.runs import RunRequest
from llava_av.workflows.open_run import run_id
from llava_av.workflows.report import _reproduce
from llava_av.workflows.runtime.workspace import Workspace
from tests.commands import ROOT

# request.json as commit c369d47 wrote it, for a run whose code digest was 64 times the letter a.
STORED: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "earlier-request.json").read_text())
CODE = "a" * 64
CHANGED = {
    "seed": 3,
    "training.pack_length": 512,
    "training.keep_latest_checkpoints": 3,
    "training.num_processes": 4,
    "training.global_batch_size": 32,
    "training.warmup_kinds": ["audio", "text"],
    "evaluation.num_processes": 2,
    "optimizer.min_lr_ratio": 0.05,
    "optimizer.decay_ratio": 0.3,
    "model.max_tokens": 400,
    "model.over_limit": "shorter_audio",
}
"""The fields that the stored request changes in the recipe `quick`, under the current names."""


def earlier_overrides() -> dict[str, Any]:
    earlier = {current: name for name, current in RENAMED_FIELDS.items()}
    renamed = {earlier.get(path, path): value for path, value in CHANGED.items()}
    return {**renamed, "model.over_limit": "shorter_sound"}


def with_two_processes() -> dict[str, Any]:
    """Return the stored recipe with the number of processes that stands for any."""
    return {**STORED["recipe"], "training": {**STORED["recipe"]["training"], "processes": 2}}


def earlier_run_id(request: RunRequest) -> str:
    """Return the ID that the earlier version gave the run of the stored request with two processes."""
    recipe = json.dumps(with_two_processes(), sort_keys=True, separators=(",", ":"))
    record = f"{request.experiment.id}@{request.experiment.sha256}"
    parts = [recipe, str(request.dataset), CODE, record]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def test_the_request_of_an_earlier_version_is_the_same_recipe_and_the_same_run(caplog):
    recipe = load_recipe("quick").with_overrides(CHANGED)
    request = RunRequest.model_validate(STORED)
    stored = request.recipe
    assert stored == recipe
    for processes, stage in ((4, 2), (2, 2), (8, 3)):
        changes = {
            "training.num_processes": processes,
            "training.zero_stage": stage,
            "training.offload_optimizer": stage == 3,
        }
        for one in (stored, recipe):
            assert json.loads(one.with_overrides(changes).identity_json()) == with_two_processes()
    assert run_id(recipe, request.datasets, request.experiment, CODE) == earlier_run_id(request)
    assert caplog.records == []  # nobody can change what an earlier version stored


def test_every_renamed_field_exists_and_was_in_the_earlier_version():
    now = load_recipe("quick").model_dump(mode="json")
    for earlier, current in RENAMED_FIELDS.items():
        for recipe, path in ((STORED["recipe"], earlier), (now, current)):
            section, name = path.split(".")
            assert name in recipe[section]


def test_earlier_names_work_in_yaml_json_and_overrides(tmp_path):
    recipe = load_recipe("quick").with_overrides(CHANGED)
    assert load_recipe("quick").with_overrides(earlier_overrides()) == recipe
    assert load_recipe(json.dumps(STORED["recipe"])) == recipe
    whole, derived = tmp_path / "whole.yaml", tmp_path / "derived.yaml"
    whole.write_text(json.dumps(STORED["recipe"]))  # JSON is YAML
    derived.write_text(json.dumps({"base": str(whole), "overrides": {"training.processes": 8}}))
    assert load_recipe(str(whole)) == recipe
    assert load_recipe(str(derived)).training.num_processes == 8
    assert TrainingRecipe(steps=1, samples_per_step=2).global_batch_size == 2  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{base: quick, overrides: {training.processes: 1, training.num_processes: 2}}",
            r"training\.processes and training\.num_processes are the same field; keep training\.num_",
        ),
        (
            "{name: x, model: {language: {}}, "
            "training: {steps: 1, samples_per_step: 2, global_batch_size: 2}}",
            r"training\.samples_per_step and training\.global_batch_size are the same field",
        ),
        (
            "{base: quick, overrides: {training: {steps: 1, samples_per_step: 2, global_batch_size: 2}}}",
            r"training\.samples_per_step and training\.global_batch_size are the same field",
        ),
        ("{base: quick, overrides: {training.samples_per_step: 0}}", r"training\.global_batch_size: .*got 0"),
        ("{base: quick, overrides: {training.samples_per_step: true}}", "global_batch_size=true must not be"),
    ],
)
def test_both_names_of_a_field_and_wrong_values_are_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)


def test_the_command_line_warns_once_of_each_earlier_name_on_standard_error():
    command = [sys.executable, "-m", "llava_av", "submit", "quick", "--print"]
    current = ["--set", "training.global_batch_size=4", "--set", "model.over_limit=shorter_audio"]
    earlier = ["--set", "training.samples_per_step=4", "--set", "model.over_limit=shorter_sound"]
    done = [
        subprocess.run([*command, *sets], cwd=ROOT, capture_output=True, text=True, check=True)
        for sets in (current, earlier)
    ]
    assert done[0].stdout == done[1].stdout
    assert done[0].stderr == ""
    assert done[1].stderr.count("training.samples_per_step is now called training.global_batch_size") == 1
    assert done[1].stderr.count("model.over_limit=shorter_audio") == 1
    assert len(done[1].stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("value", "current"),
    [
        (["projectors"], r"\[vision_connector, audio_connector\]"),
        (["language", "vision"], r"\[vision_tower, language, embeddings\]"),
        ("all", "all"),
    ],
)
def test_the_warning_of_earlier_parts_names_the_parts_to_write(caplog, value, current):
    warn_of_earlier_names({"model": {"train": value}})
    message = rf"model\.train is now called model\.trainable_parts, write model\.trainable_parts: {current};"
    assert re.search(message, caplog.text)
    assert "rename it" in caplog.text


@pytest.mark.parametrize(
    ("earlier", "parts"),
    [
        ("projectors", "vision_connector, audio_connector"),
        ("vision", "vision_tower"),
        ("audio", "audio_tower"),
    ],
)
def test_an_earlier_part_under_the_current_name_is_refused_with_its_parts(earlier, parts):
    with pytest.raises(RecipeError, match=f"trainable_parts: {earlier} is an earlier name: write {parts} in"):
        load_recipe("quick").with_overrides({"model.trainable_parts": ["language", earlier]})


def test_a_whole_section_among_overrides_is_read_and_warned_of():
    section = {"steps": 1, "global_batch_size": 2, "checkpoint_every_steps": 7}
    program = (
        "from llava_av.recipe import load_recipe\n"
        f"changed = load_recipe('quick').with_overrides({{'training': {section}}})\n"
        "print(changed.training.checkpoint_interval)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "7\n"
    assert "training.checkpoint_every_steps is now called training.checkpoint_interval" in done.stderr


def test_a_renamed_field_is_no_change():
    recipe = load_recipe("quick").with_overrides(CHANGED)
    assert recipe_changes(STORED["recipe"], recipe.model_dump(mode="json")) == ()
    longer = recipe.with_overrides({"training.pack_length": 600}).model_dump(mode="json")
    [change] = recipe_changes(STORED["recipe"], longer)
    assert change.line() == "`training.pack_length`: `512` → `600`"


def test_a_record_with_computed_changes_of_an_earlier_version_stays_complete(tmp_path):
    recipe = tmp_path / "other.yaml"
    overrides = {"training.global_batch_size": 8, "model.over_limit": "shorter_audio"}
    recipe.write_text(json.dumps({"base": "quick", "overrides": overrides}))
    text = (ROOT / "experiments" / "plain-order.md").read_text()
    text = text.replace("parent: dryrun", "parent: root").replace("recipe: plain-order", f"recipe: {recipe}")
    lines = (
        "`model.over_limit`: `refuse` → `shorter_sound`",
        "`training.samples_per_step`: `16` → `8`",
    )
    for name, content in {
        "root": (ROOT / "experiments" / "dryrun.md").read_text().replace("recipe: dryrun", "recipe: quick"),
        "child": text.replace("- `model.chunk_s`: `0.5` → `null`", "\n".join(f"- {line}" for line in lines)),
    }.items():
        identified = content.replace("id: dryrun", "id: root").replace("id: plain-order", "id: child")
        (tmp_path / f"{name}.md").write_text(identified)
    record = read_record(tmp_path / "child.md")
    assert record.changes[:2] == tuple(f"- {line}" for line in lines)
    assert problems(record, tmp_path) == ()
    wrong = (tmp_path / "child.md").read_text().replace("`16` → `8`", "`16` → `9`")
    (tmp_path / "child.md").write_text(wrong)
    [problem] = problems(read_record(tmp_path / "child.md"), tmp_path)
    assert "'## Changes' does not match the recipes" in problem


def test_a_report_of_an_earlier_run_writes_the_recipe_under_the_current_names(tmp_path, caplog):
    _reproduce(Workspace(folder=tmp_path), RunRequest.model_validate(STORED))
    assert load_recipe(str(tmp_path / "recipe.yaml")) == Recipe.model_validate(STORED["recipe"])
    assert caplog.records == []


def test_what_has_the_current_names_stays_as_it_is():
    recipe = load_recipe("dryrun").model_dump(mode="json")
    assert current_names(recipe) == recipe
    assert current_names(STORED["recipe"]) != STORED["recipe"]


def test_the_config_of_a_model_of_an_earlier_version_loads():
    assert LlavaAvConfig(over_limit="shorter_sound").over_limit == "shorter_audio"
    assert LlavaAvConfig(over_limit="fewer_frames").over_limit == "fewer_frames"


def test_the_reference_of_all_fields_is_in_step():
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert page_with_reference(page) == page, "run python -m llava_av.recipe.reference docs/recipes.md"
    with pytest.raises(ValueError, match="lacks the line"):
        page_with_reference("# Recipes\n")
