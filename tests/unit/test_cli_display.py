"""Progress while steps run, and the summary at the end."""

import io
import json
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from llava_av.cli.display import print_rows, result_console, show_progress
from llava_av.cli.dryrun_summary import show_outcome
from llava_av.processes import PROGRESS_VARIABLE, report_progress
from llava_av.services.addresses import EMBEDDED_VARIABLE
from llava_av.workflows.runtime.command_hints import mlflow_hint, program
from llava_av.workflows.runtime.workspace import Workspace

CELL = {"value": 0.95, "low": 0.9, "high": 0.98, "chance": 0.25, "n": 320, "unparsed": 0}


def _console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=120, force_terminal=terminal, color_system=None), text


def _summary(passed: bool | None, reasons: list[str]) -> dict:
    return {
        "dataset_commit": "c0ffee",
        "checkpoint": {"uri": "s3://llava-av/checkpoints/0123/step-00000600", "digest": "d1ge57"},
        "model_version": {"name": "dryrun", "version": "3", "aliases": ["champion"] if passed else []},
        "accuracy": {
            "av": {"visual": CELL, "joint": CELL},
            "video_only": {"visual": CELL, "joint": {**CELL, "value": 0.26, "unparsed": 4}},
        },
        "gate": {"passed": passed, "reasons": reasons},
        "seconds": {"data": 12.3, "train": 100.04},
        "quarantined": [{"file": "a.mp4", "reason": "is truncated"}],
    }


def _workspace(folder: Path, summary: dict) -> Workspace:
    (folder / "summary.json").write_text(json.dumps(summary))
    return Workspace(folder=folder)


def test_lines_say_when_steps_start_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path / "progress.jsonl"))
    console, text = _console()
    with show_progress(console):
        report_progress("data", 0, 0, "started")
        for done in range(1, 50):
            report_progress("data", done, 50, "clips made")
        report_progress("data", 1, 1, "done")
        report_progress("train", 0, 0, "started")
        report_progress("train", 0, 0, "loading the model")
        report_progress("train", 1, 600, "loss 6.0")
    lines = text.getvalue().splitlines()
    assert [line.split(" (")[0].split() for line in lines] == [
        ["data", "started"],
        ["data", "done"],
        ["train", "started"],
        ["train", "loading", "the", "model"],
    ]


def test_bars_show_counts_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path / "progress.jsonl"))
    console, text = _console(terminal=True)
    with show_progress(console):
        report_progress("train", 30, 600, "loss 2.31")
    assert "30/600" in text.getvalue()
    assert "loss 2.31" in text.getvalue()


def test_ids_stay_whole_in_a_pipe_and_in_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    digest = "d1ge57" * 12
    summary = _summary(True, [])
    summary["checkpoint"]["digest"] = digest
    for console in (result_console(), Console(width=40, color_system=None, force_terminal=True)):
        show_outcome(console, _workspace(tmp_path, summary))
        assert f"checkpoint digest  {digest}\n" in capsys.readouterr().out
    table = Table("value")
    table.add_row(digest * 3)
    result_console().print(table)
    assert digest * 3 in capsys.readouterr().out


def test_rows_are_neither_cut_nor_wrapped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_rows(("run", "name", "of"), [("0123456789abcdef", "[red]Käse\x1b 日本", "c" * 40), ("1", "", "")])
    assert capsys.readouterr().out.splitlines() == [
        "run               name                of",
        f"0123456789abcdef  [red]Käse\\x1b 日本  {'c' * 40}",
        "1",
    ]


def test_outcome_tells_results_places_and_what_to_ask(tmp_path: Path) -> None:
    console, text = _console()
    code = show_outcome(console, _workspace(tmp_path, _summary(True, [])))
    shown = text.getvalue()
    assert code == 0
    for words in (
        "joint (n=320, chance 0.25)",
        "0.95 (0.90–0.98)",
        "4 unparsed",
        "dryrun version 3 (champion)",
        "c0ffee",
        "d1ge57",
        "a.mp4: is truncated",
        "data 12.3, train 100.0",
        str(tmp_path / "report.html"),
        str(tmp_path / "state" / "mlflow.db"),
        f"{program()} services up",
        f"{program()} chat s3://llava-av/checkpoints/0123/step-00000600 --output-dir",
        '--video FILE "QUESTION"',
    ):
        assert words in shown


def test_question_to_ask_is_about_a_clip_that_is_there(tmp_path: Path) -> None:
    data = tmp_path / "state" / "work" / "data" / "c0ffee"
    data.mkdir(parents=True)
    (data / "a b.mp4").touch()
    turns = [{"from": "human", "value": "<video>\nWho's there?"}, {"from": "gpt", "value": "a bird"}]
    names = ("gone.mp4", "a b.mp4")
    samples = [{"id": name, "conversations": turns, "video": [name]} for name in names]
    (data / "conversations.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    console, text = _console()
    show_outcome(console, _workspace(tmp_path, _summary(True, [])))
    asked = shlex.split(text.getvalue().splitlines()[-1])
    assert asked[-3:] == ["--video", str(data / "a b.mp4"), "Who's there?"]


def test_named_mlflow_is_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EMBEDDED_VARIABLE, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example/store")
    assert mlflow_hint(Workspace(folder=tmp_path)) == "https://mlflow.example/store"
    monkeypatch.setenv(EMBEDDED_VARIABLE, "yes")
    assert "mlflow.db" in mlflow_hint(Workspace(folder=tmp_path))


def test_command_is_named_as_one_can_type_it_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llava_av.workflows.runtime.command_hints.sys.executable", str(folder / "python"))
    assert program() == ".venv/bin/python -m llava_av"
    (folder / "llava-av").touch(mode=0o755)
    assert program() == ".venv/bin/llava-av"
    monkeypatch.setenv("PATH", str(folder))
    assert program() == "llava-av"


def test_rows_and_columns_come_in_the_order_of_reports(tmp_path: Path) -> None:
    summary = _summary(True, [])
    summary["accuracy"] = dict(sorted(summary["accuracy"].items(), reverse=True))
    console, text = _console()
    show_outcome(console, _workspace(tmp_path, summary))
    shown = text.getvalue()
    assert shown.index("visual (n=") < shown.index("joint (n=")
    assert shown.index("│ av ") < shown.index("│ video only ")


def test_failed_gate_is_the_last_line_and_the_exit_code(tmp_path: Path) -> None:
    console, text = _console()
    reason = "accuracy.av.joint is 0.71, expected at least 0.90"
    assert show_outcome(console, _workspace(tmp_path, _summary(False, [reason]))) == 1
    assert text.getvalue().splitlines()[-1] == f"gate failed: {reason}"


def test_each_expectation_is_listed_and_a_missed_one_without_a_gate_is_a_failure(tmp_path: Path) -> None:
    missed = {"outcome": "accuracy.av.all at least 0.90: 0.71, missed by 0.19", "met": False}
    met = {"outcome": "accuracy.av.all.n at least 100: 320, met by 220", "met": True}
    summary = {**_summary(None, ["no joint questions"]), "expected": [met, missed]}
    for judged, code in ((True, 1), (False, 0)):
        console, text = _console()
        assert show_outcome(console, _workspace(tmp_path, summary), judged=judged) == code
        lines = text.getvalue().splitlines()
        assert (f"✗ {missed['outcome']}" in lines, f"✓ {met['outcome']}" in lines) == (judged, judged)
        assert (lines[-1] == f"expectations missed: {missed['outcome']}") == judged


def test_a_challenger_is_no_failure_and_says_that_the_champion_stays(tmp_path: Path) -> None:
    console, text = _console()
    reason = "accuracy.av.joint.low over champion (version 1) is -0.04, expected at least -0.03"
    summary = _summary(False, [reason])
    summary["model_version"] = {"name": "dryrun", "version": "2", "aliases": ["challenger"]}
    assert show_outcome(console, _workspace(tmp_path, summary)) == 0
    last = text.getvalue().splitlines()[-1]
    assert last.startswith("challenger: version 2 of dryrun ")
    assert last.endswith(f"champion, which stays: {reason}")
    assert "gate failed" not in last


def test_gate_that_was_not_run_is_no_failure(tmp_path: Path) -> None:
    console, text = _console()
    assert show_outcome(console, _workspace(tmp_path, _summary(None, ["skipped"]))) == 0
    assert "not run: skipped" in text.getvalue()
