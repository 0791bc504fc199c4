import datetime
import os
import re
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_av.experiments.authoring import Draft, new_record
from llava_av.experiments.outcomes import make_outcome, outcome_row, parse_run_row, write_outcome
from llava_av.experiments.records import (
    OBSERVED_BEGIN,
    OBSERVED_END,
    ExperimentError,
    experiments_folder,
    list_records,
    load_record,
    parse_record,
    read_record,
)
from llava_av.registry.gate import evaluate_gate, load_gate
from llava_av.runs import RunOutcome
from tests.artifacts import evaluated

DAY = datetime.date(2026, 11, 22)
RECORD = f"""\
---
id: tones
title: 'Tones: high and low'
parent: dryrun
created: 2026-11-02
expected:
- {{metric: accuracy.av.joint, at_least: 0.9}}
- {{metric: accuracy.video_only.joint.low, at_most: chance}}
---

# Tones

## Hypothesis

It hears.

```
## not a heading
```

## Rationale

It has ears.

## Next steps

- More tones.

## Lessons

## Observed

Rows below.

{OBSERVED_BEGIN}
{OBSERVED_END}

After them.
"""


def evaluation(av: float = 0.97, low: float = 0.31) -> dict[str, Any]:
    def cell(value: float, low: float) -> dict[str, Any]:
        return {"value": value, "low": low, "high": 0.99, "chance": 0.375, "n": 160, "unparsed": 0}

    return {"accuracy": {"av": {"joint": cell(av, 0.93)}, "video_only": {"joint": cell(0.38, low)}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "tones.md").write_text(RECORD)
    return folder / "tones.md"


def outcome(path: Path, run: str = "0123456789abcdef", **changed: Any) -> RunOutcome:
    fields: dict[str, Any] = {"date": DAY, "seed": 0, "dataset_commit": "d" * 64, "git_commit": "c" * 40}
    measured = changed.pop("evaluation", evaluation())
    return make_outcome(read_record(path), evaluated(measured), run=run, **{**fields, **changed})


def test_a_record_is_read_completely(path: Path) -> None:
    record = read_record(path)
    assert (record.id, record.title, record.parent) == ("tones", "Tones: high and low", "dryrun")
    assert record.created == datetime.date(2026, 11, 2)
    assert [(item.metric, item.at_least, item.at_most) for item in record.expected] == [
        ("accuracy.av.joint", 0.9, None),
        ("accuracy.video_only.joint.low", None, "chance"),
    ]
    assert record.hypothesis == "It hears.\n\n```\n## not a heading\n```"
    assert (record.rationale, record.next_steps, record.lessons) == ("It has ears.", "- More tones.", "")
    assert record.observed == ()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("---\nid", "id", "the front matter between two lines --- is missing"),
        ("id: tones", "id: [", "the front matter is not YAML"),
        ("id: tones", "id: other", "id: 'other' is not the name of the file"),
        ("id: tones", "name: tones", "id: Field required"),
        ("id: tones", "id: Tones", "id: String should match"),
        ("title: 'Tones: high and low'\n", "", "title: Field required"),
        ("created: 2026-11-02", "created: soon", "created: .*, got 'soon'"),
        ("created", "owner: me\ncreated", "owner: unknown field"),
        ("created", "lessons: none\ncreated", "lessons is a section, not front matter"),
        ("created", "observed: none\ncreated", "observed is a section, not front matter"),
        ("## Rationale", "## Reason", "the section '## Rationale' is missing or empty"),
        ("## Next steps", "### Next steps", "the section '## Next steps' is missing or empty"),
        ("It has ears.", "", "the section '## Rationale' is missing or empty"),
        ("accuracy.av.joint,", "accuracy.joint,", r"expected\.0\.metric: not a number of an evaluation"),
        ("accuracy.av.joint,", "accuracy.av.jiont,", r"family 'jiont' is not one of .* did you mean joint\?"),
        ("at_least: 0.9", "at_least: most", r"expected\.0\.at_least: give a number, or chance, got 'most'"),
        (", at_least: 0.9", "", r"expected\.0: give either at_least or at_most"),
        (OBSERVED_END, "", "needs the line <!-- seen"),
        (OBSERVED_BEGIN, OBSERVED_BEGIN * 2, "each once"),
    ],
)
def test_what_a_record_lacks_is_one_line_that_names_it(path: Path, old: str, new: str, problem: str) -> None:
    assert old in RECORD
    path.write_text(RECORD.replace(old, new, 1))
    with pytest.raises(ExperimentError, match=problem) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_without_expectation_is_incomplete(path: Path) -> None:
    path.write_text(re.sub(r"expected:\n(- .*\n)+", "expected: []\n", RECORD))
    with pytest.raises(ExperimentError, match="expected: at least one checkable statement is missing"):
        read_record(path)


def test_files_that_are_not_text_are_one_line(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError, match="it is not UTF-8 text"):
        read_record(path)
    with pytest.raises(ExperimentError, match="No such file"):
        read_record(path.with_name("gone.md"))


def test_a_record_is_found_by_id_or_path(path: Path) -> None:
    record = read_record(path)
    assert load_record("tones", path.parent) == (path, record)
    assert load_record(str(path)) == (path, record)
    with pytest.raises(ExperimentError, match=r"no experiment record 'tone'.* name one of: tones"):
        load_record("tone", path.parent)
    with pytest.raises(ExperimentError, match=r"this installation has no folder .*gone"):
        load_record("tone", path.parent / "gone")


def test_records_are_listed_oldest_first(path: Path) -> None:
    folder = path.parent
    new_record(folder, Draft(id="dryrun", title="First"), created=datetime.date(2026, 11, 1))
    new_record(folder, Draft(id="again", title="Third", parent="tones", recipe="quick"), created=DAY)
    (folder / "README.md").write_text("About these files.\n")
    assert [record.id for record in list_records(folder)] == ["dryrun", "tones", "again"]
    (folder / "dryrun.md").unlink()
    with pytest.raises(ExperimentError, match=r"tones\.md: parent: there is no record 'dryrun'"):
        list_records(folder)


titles = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"]), min_size=1)


@given(title=titles.filter(lambda title: title.isprintable()))
@settings(max_examples=50)
def test_a_new_record_is_read_whatever_its_title(
    tmp_path_factory: pytest.TempPathFactory, title: str
) -> None:
    written = new_record(tmp_path_factory.mktemp("experiments"), Draft(id="next", title=title), created=DAY)
    record = read_record(written, draft=True)
    assert (record.id, record.title, record.created, record.parent) == ("next", title, DAY, None)
    assert record.hypothesis
    assert record.rationale
    assert record.observed == ()


@pytest.mark.parametrize("record_id", ["123", "null", "yes", "2026-11-22", "1e5", "0x1f"])
def test_ids_that_yaml_would_read_otherwise_stay_text(tmp_path: Path, record_id: str) -> None:
    child = new_record(tmp_path, Draft(id=f"{record_id}-b", title="Child", parent=_made(tmp_path, record_id)))
    assert read_record(child, draft=True).parent == record_id


def _made(folder: Path, record_id: str) -> str:
    return read_record(new_record(folder, Draft(id=record_id, title="Parent", recipe="quick")), draft=True).id


def test_a_new_record_never_overwrites(path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"tones\.md already exists; choose another id"):
        new_record(path.parent, Draft(id="tones", title="Other"))
    assert path.read_text() == RECORD
    assert os.listdir(path.parent) == ["tones.md"]


@pytest.mark.parametrize("record_id", ["../x", "A", "a b", "", "-a"])
def test_ids_that_are_not_file_names_are_refused(tmp_path: Path, record_id: str) -> None:
    with pytest.raises(ExperimentError, match="use lower-case letters, digits and '-'"):
        new_record(tmp_path, Draft(id=record_id, title="Title"))


def test_new_records_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="title: String should have at least 1 character"):
        new_record(tmp_path, Draft(id="a", title=""))
    with pytest.raises(ExperimentError, match="parent: there is no record 'b'"):
        new_record(tmp_path, Draft(id="a", title="Title", parent="b"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ExperimentError, match="cannot be written"):
        new_record(tmp_path / "file", Draft(id="a", title="Title"))


def test_of_many_at_once_one_writes_the_new_record(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def attempt(number: int) -> bool:
        start.wait()
        try:
            new_record(tmp_path, Draft(id="same", title=f"Title {number}"))
        except ExperimentError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    read_record(tmp_path / "same.md", draft=True)


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


def test_the_shipped_records_are_complete() -> None:
    records = {record.id: record for record in list_records(experiments_folder())}
    dryrun = records["dryrun"]
    assert dryrun.parent is None
    assert dryrun.observed == ()
    assert [(item.metric, item.at_least or item.at_most) for item in dryrun.expected] == [
        ("accuracy.av.joint", 0.9),
        ("accuracy.av.joint.n", 100),
        ("accuracy.video_only.joint.low", "chance"),
        ("accuracy.audio_only.joint.low", "chance"),
        ("accuracy.text_only.joint.low", "chance"),
    ]


def test_the_dry_runs_expectations_gate_its_evaluation() -> None:
    _, dryrun = load_record("dryrun")

    def cell(value: float, n: int = 160) -> dict[str, Any]:
        low, high = value - 0.07, min(1.0, value + 0.07)
        return {"joint": {"value": value, "low": low, "high": high, "chance": 0.375, "n": n, "unparsed": 0}}

    others = ("video_only", "audio_only", "text_only")
    measured: dict[str, Any] = {
        "accuracy": {"av": cell(0.98), **{name: cell(0.39) for name in others}},
        "differences": {name: {"joint": {"value": 0.6, "low": 0.5, "high": 0.7}} for name in others},
    }
    assert evaluate_gate(evaluated(measured), dryrun.expected, load_gate("champion")).passed
    measured["accuracy"]["audio_only"] = cell(0.6)
    measured["accuracy"]["av"] = cell(0.98, n=90)
    assert evaluate_gate(evaluated(measured), dryrun.expected, load_gate("champion")).reasons == (
        "accuracy.av.joint.n is 90, expected at least 100",
        "accuracy.audio_only.joint.low is 0.53, expected at most chance (0.38)",
    )
