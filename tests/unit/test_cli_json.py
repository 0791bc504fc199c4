"""Results of commands as JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer import Abort
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.experiments.authoring import Draft, new_record
from llava_av.experiments.records import OBSERVED_END, read_record
from tests.llava_samples import write_audio_tower, write_llava

ROW = "| `0123` | 2026-11-02 | 0 | `c0ffee` | no commit | loss.av.joint at most 1.00: 0.20, met by 0.80 |\n"


def printed(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def parsed(*arguments: object) -> Any:
    return json.loads(printed(*arguments, "--json"))


def test_every_command_with_a_result_prints_it_as_json() -> None:
    def without(command: Any, names: tuple[str, ...]) -> list[str]:
        if isinstance(command, TyperGroup):
            below = command.commands.items()
            return [found for name, one in below for found in without(one, (*names, name))]
        options = {option for parameter in command.params for option in parameter.opts}
        return [] if command.hidden or "--json" in options else [" ".join(names)]

    assert without(get_command(app), ()) == ["serve"]


def test_a_new_task_is_its_files(tmp_path: Path) -> None:
    found = parsed("evaluation", "new", tmp_path / "task")
    assert all(Path(path).is_file() for path in found)


def test_a_conversion_is_its_counts(tmp_path: Path) -> None:
    rows = "id,question,answer,image\n1,What?,red,a.png\n"
    (tmp_path / "table.csv").write_text(rows)
    found = parsed("data", "convert", tmp_path / "table.csv", tmp_path / "conversations.jsonl")
    assert (found["file"], found["samples"]) == (str(tmp_path / "conversations.jsonl"), 1)


def test_servers_that_do_not_run_are_not_stopped(tmp_path: Path) -> None:
    assert parsed("services", "down", "--output-dir", tmp_path) == {"stopped": False}


def test_a_new_project_is_its_files(tmp_path: Path) -> None:
    found = parsed("init", tmp_path / "clips")
    assert str(tmp_path / "clips" / "recipes" / "clips.yaml") in found
    assert all(Path(path).exists() for path in found)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_file_name_that_is_not_utf8_is_escaped(tmp_path: Path, errors: str) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    done = subprocess.run(
        [sys.executable, "-m", "llava_av", "init", folder, "--name", "clips", "--json"],
        env={**os.environ, "PYTHONIOENCODING": f"utf-8:{errors}"},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert os.fsdecode(folder) + "/README.md" in json.loads(done.stdout.decode())


def test_a_manifest_is_the_one_that_is_printed_as_yaml() -> None:
    command = ("submit", "quick", "--name", "mine", "--print")
    assert parsed(*command) == yaml.safe_load(printed(*command))


def test_a_compiled_pipeline_is_its_file(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    assert parsed("pipeline", "compile", file, "--image", "example.org/pipeline:1") == {"file": str(file)}
    assert file.is_file()


def test_a_record_and_the_tree_of_records(tmp_path: Path) -> None:
    new_record(tmp_path, Draft(id="first", title="The first", recipe="quick"))
    new = ("experiment", "new", "second", "--title", "The second", "--parent", "first", "--folder", tmp_path)
    path = Path(parsed(*new)["record"])
    path.write_text(path.read_text().replace(OBSERVED_END, ROW + OBSERVED_END))
    places = ("--folder", tmp_path, "--output-dir", tmp_path / "out")
    shown = parsed("experiment", "show", "second", *places)
    assert shown == read_record(path, draft=True).model_dump(mode="json")
    assert shown["parent"] == "first"
    assert parsed("experiment", "show", "second", *places, "--part", "recipe") == "quick"
    assert len(parsed("experiment", "show", "second", *places, "--part", "seen")) == 1
    drawn = tmp_path / "tree.svg"
    tree = parsed("experiment", "graph", *places, "--draw", drawn)
    assert [(node["record"]["id"], node["depth"]) for node in tree] == [("first", 0), ("second", 1)]
    assert tree == parsed("experiment", "list", *places)
    assert drawn.is_file()


def test_prompts_are_not_part_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new_record(tmp_path, Draft(id="first", title="The first", recipe="quick"))
    close = ["experiment", "close", "first", "--folder", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    typed, terminal = os.openpty()
    os.write(typed, b"\x04")
    with os.fdopen(typed, "rb", buffering=0), os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(Abort):
            get_command(app)([*close, "--json"], standalone_mode=False)
    shown = capsys.readouterr()
    assert "What was learned?" in shown.err
    assert shown.out.isspace()


def test_an_imported_model_is_its_parts(tmp_path: Path) -> None:
    source, audio = write_llava("llava", tmp_path / "source"), write_audio_tower(tmp_path / "audio")
    target = tmp_path / "imported"
    imported = parsed("model", "import", source, target, "--audio", audio)
    config = json.loads((target / "config.json").read_text())
    parts = {"vision": "vision_config", "audio": "audio_config", "language": "text_config"}
    kinds = {part: config[section]["model_type"] for part, section in parts.items()}
    assert imported == {"folder": str(target), **kinds}
