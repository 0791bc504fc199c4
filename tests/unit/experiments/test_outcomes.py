"""Outcomes of runs in their experiment's record."""

import datetime
import os
import re
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llava_av.experiments.outcomes import make_outcome, outcome_row, parse_run_row, write_outcome
from llava_av.experiments.records import OBSERVED_BEGIN, ExperimentError, parse_record, read_record
from llava_av.runs import RunOutcome
from tests.artifacts import evaluated
from tests.unit.experiments.records import DAY, RECORD


def evaluation(av: float = 0.97, low: float = 0.31) -> dict[str, Any]:
    def cell(value: float, low: float) -> dict[str, Any]:
        return {"value": value, "low": low, "high": 0.99, "chance": 0.375, "n": 160, "unparsed": 0}

    return {"accuracy": {"av": {"joint": cell(av, 0.93)}, "video_only": {"joint": cell(0.38, low)}}}


def outcome(path: Path, run: str = "0123456789abcdef", **changed: Any) -> RunOutcome:
    fields: dict[str, Any] = {"date": DAY, "seed": 0, "dataset_commit": "d" * 64, "git_commit": "c" * 40}
    measured = changed.pop("evaluation", evaluation())
    return make_outcome(read_record(path), evaluated(measured), run=run, **{**fields, **changed})


def test_an_outcome_is_a_row_beside_what_was_expected(path: Path) -> None:
    written = write_outcome(path, path, outcome(path))
    row = (
        "| `0123456789abcdef` | 2026-11-22 | 0 | `dddddddddddd` | `cccccccccccc` | "
        "accuracy.av.joint at least 0.90: 0.97 [0.93, 0.99], met by 0.07<br>"
        "accuracy.video_only.joint.low at most chance (0.38): 0.31, met by 0.07 |"
    )
    assert written.observed == (row,)
    assert read_record(path) == written
    head, table = RECORD.split(f"{OBSERVED_BEGIN}\n")
    text = path.read_text()
    assert text.startswith(head)
    assert text.endswith(table)
    columns = {line.count("|") for line in text.split(OBSERVED_BEGIN)[1].splitlines() if line.startswith("|")}
    assert columns == {7}


def test_missed_and_unmeasured_expectations_are_reported(path: Path) -> None:
    missed = outcome_row(outcome(path, evaluation=evaluation(av=0.896, low=0.5)))
    assert "accuracy.av.joint at least 0.90: 0.896 [0.93, 0.99], missed by 0.004" in missed
    assert "accuracy.video_only.joint.low at most chance (0.38): 0.50, missed by 0.12" in missed
    unmeasured = outcome_row(outcome(path, evaluation={"accuracy": {}}, git_commit=None))
    assert "accuracy.av.joint at least 0.90: not measured (no ablation av)" in unmeasured
    assert [met for _, met in parse_run_row(unmeasured).results] == [None, None]
    other = {"accuracy": {"av": dict.fromkeys(("all", "a|b"), evaluation()["accuracy"]["av"]["joint"])}}
    assert "not measured (no family joint, only all, a/b)" in outcome_row(outcome(path, evaluation=other))
    assert "| no commit |" in unmeasured
    noted = outcome_row(outcome(path, git_dirty=True, note="plumbing | check\nonly"))
    assert "| `cccccccccccc` + patch | plumbing / check only<br>accuracy" in noted


def test_a_run_has_one_row_and_an_unchanged_one_writes_nothing(path: Path) -> None:
    write_outcome(path, path, outcome(path, run="a"))
    write_outcome(path, path, outcome(path, run="ab"))
    before = path.stat()
    again = write_outcome(path, path, outcome(path, run="a", date=DAY + datetime.timedelta(days=9)))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(again.observed) == 2
    changed = write_outcome(path, path, outcome(path, run="a", evaluation=evaluation(av=0.5)))
    assert [row.split("`")[1] for row in changed.observed] == ["a", "ab"]
    assert "0.50 [0.93, 0.99], missed" in changed.observed[0]


def test_a_copy_takes_the_rows_and_the_record_stays_clean(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "outputs" / "experiments" / "tones.md"
    write_outcome(path, copy, outcome(path, run="a"))
    path.write_text(RECORD.replace("It has ears.", "It has two ears."))
    written = write_outcome(path, copy, outcome(path, run="b"))
    assert read_record(path).observed == ()
    assert [row.split("`")[1] for row in written.observed] == ["a", "b"]
    assert written.rationale == "It has two ears."
    assert read_record(copy) == written


def test_a_record_without_a_table_of_runs_gets_one(path: Path) -> None:
    path.write_text(RECORD.partition("## Observed")[0])
    written = write_outcome(path, path, outcome(path))
    assert len(written.observed) == 1
    assert "\n## Observed\n" in path.read_text()


def test_a_record_of_an_earlier_version_gets_the_current_headings(path: Path) -> None:
    write_outcome(path, path, outcome(path, run="a"))
    earlier = (
        path.read_text().replace("## Observed", "## Seen").replace("Expected and observed", "Expected: seen")
    )
    path.write_text(earlier)
    written = write_outcome(path, path, outcome(path, run="b"))
    assert [row.split("`")[1] for row in written.observed] == ["a", "b"]
    assert re.findall(r"^## (?:Seen|Observed)$", path.read_text(), re.MULTILINE) == ["## Observed"]
    assert path.read_text().count("Expected and observed |") == 1
    assert "Expected: seen" not in path.read_text()


def test_the_digest_is_of_what_people_wrote(path: Path) -> None:
    before = read_record(path).digest()
    assert re.fullmatch(r"[0-9a-f]{64}", before)
    assert write_outcome(path, path, outcome(path)).digest() == before
    changed = parse_record(RECORD.replace("It has ears.", "It has eyes."), path)
    assert changed.digest() != before


def test_a_damaged_copy_is_not_written_over(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.md"
    copy.write_text(f"{OBSERVED_BEGIN}\n| `a` | kept |\n")
    with pytest.raises(ExperimentError, match=r"copy\.md: the section '## Observed' needs"):
        write_outcome(path, copy, outcome(path))
    assert "kept" in copy.read_text()


def test_an_outcome_that_cannot_be_written_is_one_line(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExperimentError, match=r"file/tones\.md: cannot be written"):
        write_outcome(path, tmp_path / "file" / "tones.md", outcome(path))


def test_many_runs_at_once_all_get_their_row(path: Path) -> None:
    path.chmod(0o640)
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        write_outcome(path, path, outcome(path, run=f"run-{number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(read_record(path).observed) == 8
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(path.parent) == ["tones.md"]


def test_what_a_killed_writer_left_is_written_over(path: Path) -> None:
    path.with_name(".tones.md.0123.partial").write_text("half")
    assert len(write_outcome(path, path, outcome(path)).observed) == 1
    assert os.listdir(path.parent) == ["tones.md"]
