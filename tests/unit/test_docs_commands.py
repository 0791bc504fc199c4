"""Commands and files that the documentation shows, run exactly as written."""

import csv
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.datasets.schema import parse_sample
from llava_av.registry.gate import load_gate

DOCS = Path(__file__).resolve().parents[2] / "docs"


def block(page: str, containing: str, language: str = "") -> str:
    """Return the one fenced block of a page that contains a text."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (found,) = (body for named, body in blocks if named == language and containing in body)
    return found


def commands(page: str, containing: str) -> list[list[str]]:
    """Return the arguments of each command of a block."""
    lines = block(page, containing).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("llava-av ")]


def run(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{arguments}\n{result.output}\n{result.exception}"
    return result.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_experiment_of_the_page_is_complete(folder: Path) -> None:
    (folder / "recipes").mkdir()
    (folder / "recipes" / "longer.yaml").write_text("base: dryrun\noverrides: {training.steps: 2200}\n")
    records = folder / "experiments"
    records.mkdir()
    new, check = commands("experiments.md", "experiment new longer-training")
    run(new)
    assert "2200" in (records / "longer-training.md").read_text()
    record = (records / "longer-training.md").read_text().replace("\n…\n", "\nIt is slow to learn.\n")
    (records / "longer-training.md").write_text(record)
    run(check)


def test_the_experiment_of_own_data_is_complete(folder: Path) -> None:
    new, check, _ = commands("experiments.md", "experiment new my-clips")
    records = folder / "experiments"
    records.mkdir()
    run(new)
    record = (records / "my-clips.md").read_text()
    assert "accuracy.av.all" in record
    (records / "my-clips.md").write_text(record.replace("\n…\n", "\nIt answers.\n"))
    run(check)


def test_the_gate_of_the_page_is_the_champions(folder: Path) -> None:
    (folder / "champion.yaml").write_text(block("registry.md", "rules:", "yaml"))
    assert load_gate(str(folder / "champion.yaml")) == load_gate("champion")


def test_the_conversion_of_the_page_writes_samples(folder: Path) -> None:
    (folder / "clips").mkdir()
    with (folder / "export.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["question", "answer", "video"], *([f"What is {n}?", "It.", "a.mp4"] for n in range(240))]
        )
    (convert,) = commands("data-format.md", "data convert export.csv")
    assert run(convert) == block("data-format.md", "240 samples")
    lines = (folder / "clips" / "conversations.jsonl").read_text().splitlines()
    assert [parse_sample(line, number).video for number, line in enumerate(lines)] == [("a.mp4",)] * 240


def test_the_task_of_the_page_can_be_checked(folder: Path) -> None:
    new, check, evaluate = commands("evaluation.md", "evaluation new")
    run(new)
    for name in re.findall(r'"(?:video|audio)": "(.*?)"', (folder / "my-task/questions.jsonl").read_text()):
        (folder / "my-task" / name).parent.mkdir(exist_ok=True)
        (folder / "my-task" / name).write_bytes(b"not decoded by the check")
    assert "bell" in run(check)
    assert evaluate[2:] == ["--task", check[2], "--data", check[3]]
