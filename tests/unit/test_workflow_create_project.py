"""The project that `llava-av init` creates: each file is valid and fits the others."""

import datetime
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.datasets.schema import parse_sample
from llava_av.experiments.completeness import problems
from llava_av.experiments.records import load_record
from llava_av.media.check import check_media
from llava_av.recipe import load_recipe
from llava_av.registry.gate import load_gate
from llava_av.workflows.create_project import ProjectError, create_project
from tests.commands import called_here

DAY = datetime.date(2026, 11, 2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "My clips"
    create_project(folder, today=DAY)
    return folder


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def test_no_placeholder_is_left(project: Path) -> None:
    texts = [path for path in project.rglob("*") if path.is_file() and path.suffix not in (".mp4", ".yml")]
    assert len(texts) > 4
    assert not [path for path in texts if "@" in path.name or re.search(r"@\w+@", path.read_text())]


def test_recipe_and_gate_load_by_name(inside: Path) -> None:
    recipe = load_recipe("my-clips")
    assert (recipe.name, recipe.registered_model, recipe.training.steps) == ("my-clips", "my-clips", 8)
    assert [rule.over for rule in load_gate("champion").rules] == [None, "champion"]


def test_the_record_is_complete(inside: Path) -> None:
    path, record = load_record("my-clips")
    assert problems(record, path.parent) == ()
    assert (record.created, record.recipe, record.dataset) == (DAY, "my-clips", "my-clips")


def test_the_data_are_samples_of_clips_with_video_and_audio(inside: Path) -> None:
    lines = Path("data/conversations.jsonl").read_text().splitlines()
    samples = [parse_sample(line, number) for number, line in enumerate(lines, start=1)]
    assert len({sample.id for sample in samples}) == 96
    media = {Path("data", name) for sample in samples for name in (*sample.video, *sample.audio)}
    assert media == set(Path("data/clips").iterdir())
    infos = [check_media(path) for path in media]
    assert {(info.kind, info.has_audio) for info in infos} == {("video", True)}


def test_the_workflow_passes_the_linter_and_runs_commands_that_exist(inside: Path) -> None:
    linter = [Path(sys.executable).with_name("zizmor"), "--offline", "--persona=pedantic", "--no-progress"]
    done = subprocess.run([*linter, ".github/workflows"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = yaml.safe_load(Path(".github/workflows/check.yml").read_text())["jobs"]["check"]["steps"]
    commands = [shlex.split(step["run"])[1:] for step in steps if step.get("run", "").startswith("llava-av")]
    assert [command[0] for command in commands] == ["experiment", "run"]
    for command in commands:
        assert called_here(*command, "--help")[0] == 0


@pytest.mark.parametrize("file", ["README.md", "gates/champion.yaml", "data/mine.mp4"])
def test_existing_files_are_kept(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    with pytest.raises(ProjectError, match=r"exists already: choose another folder"):
        create_project(tmp_path, "clips")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / file]
    assert (tmp_path / file).read_text() == "mine"


@pytest.mark.parametrize("name", ["Clips", "-clips", "../clips", "demo", "dryrun", "own-data"])
def test_names_that_are_invalid_or_taken_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError, match=name):
        create_project(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_the_command_prints_what_it_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["init", "here", "--name", "talks"])
    assert result.exit_code == 0, result.output
    printed = [Path(line) for line in result.stdout.splitlines()]
    assert Path("here/recipes/talks.yaml") in printed
    assert all(path.exists() for path in printed)
