"""Experiment records: read, found and written anew."""

import datetime
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_av.experiments.authoring import Draft, new_record, parse_statement
from llava_av.experiments.overview import experiment_tree
from llava_av.experiments.records import (
    OBSERVED_BEGIN,
    OBSERVED_END,
    ExperimentError,
    experiments_folder,
    list_records,
    load_record,
    read_record,
)
from llava_av.registry.gate import evaluate_gate, load_gate
from tests.artifacts import evaluated
from tests.unit.experiments.records import DAY, RECORD


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
    with pytest.raises(ExperimentError, match=r"no experiment record 'tone'.* name one of: none"):
        load_record("tone", path.parent / "gone")


def test_records_are_listed_oldest_first(path: Path) -> None:
    folder = path.parent
    new_record(folder, Draft(id="dryrun", title="First"), created=datetime.date(2026, 11, 1))
    new_record(folder, Draft(id="again", title="Third", parent="tones", recipe="quick"), created=DAY)
    (folder / "README.md").write_text("About these files.\n")
    assert [record.id for record in list_records(folder)] == ["dryrun", "tones", "again"]
    path.unlink()
    with pytest.raises(ExperimentError, match=r"again\.md: parent: there is no record 'tones'"):
        list_records(folder)


def test_a_parent_may_come_with_the_package(tmp_path: Path) -> None:
    made = new_record(tmp_path, Draft(id="longer", title="Longer", parent="dryrun", recipe="quick"))
    assert "`training.steps`" in made.read_text()
    (record,) = list_records(tmp_path)
    assert record.parent == "dryrun"
    assert [node.depth for node in experiment_tree([record], {})] == [0]


@pytest.mark.parametrize("metric", ["accuracy.av.*.low", "accuracy.av.kind-2", "loss.av.Ereignis"])
def test_expectations_of_own_families_are_read_as_they_were_given(tmp_path: Path, metric: str) -> None:
    expected = (parse_statement(f"{metric} >= 0.5"),)
    made = new_record(tmp_path, Draft(id="own", title="Own", recipe="quick", expected=expected))
    assert read_record(made, draft=True).expected == expected


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
