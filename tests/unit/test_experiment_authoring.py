"""Creating, checking, closing, searching and drawing records."""

import datetime
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.errors import UserError
from llava_av.experiments.authoring import (
    Draft,
    close_record,
    new_record,
    parse_statement,
    refresh_changes,
)
from llava_av.experiments.changes import changes_between, current_line
from llava_av.experiments.completeness import problems, require_record
from llava_av.experiments.outcomes import make_outcome, outcome_row, parse_run_row, write_outcome
from llava_av.experiments.overview import experiment_tree, search_records
from llava_av.experiments.records import (
    ExperimentError,
    experiments_folder,
    list_records,
    read_record,
)
from llava_av.registry.baselines import Baseline
from llava_av.report.tree_diagram import Box, draw_tree, write_diagram
from llava_av.runs import Change, EvaluationResult
from tests.artifacts import evaluated

DAY = datetime.date(2026, 11, 23)
WHOLE: dict[str, Any] = {
    "hypothesis": "It hears.",
    "rationale": "It has ears.",
    "next_steps": "- More tones.",
    "expected": (parse_statement("accuracy.av.joint >= 0.9"),),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a complete root record and a child that changes one value of the recipe."""
    new_record(tmp_path, Draft(id="root", title="Root", recipe="quick", **WHOLE), created=DAY)
    recipe = tmp_path / "longer.yaml"
    recipe.write_text("base: quick\noverrides: {training.steps: 16}\n")
    child = {**WHOLE, "expected": (parse_statement("accuracy.av.joint over parent >= 0.02"),)}
    new_record(
        tmp_path, Draft(id="child", title="Longer", parent="root", recipe=str(recipe), **child), created=DAY
    )
    return tmp_path


def evaluation(value: float) -> EvaluationResult:
    cell = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 100, "unparsed": 0, "chance": 0.4}
    return evaluated({"accuracy": {"av": {"joint": cell}}})


def seen_row(path: Path, run: str, value: float, **about: Any) -> str:
    outcome = make_outcome(
        read_record(path),
        evaluation(value),
        run=run,
        date=DAY,
        seed=0,
        dataset_commit="d" * 64,
        git_commit="c" * 40,
        **about,
    )
    return outcome_row(outcome)


def test_changes_are_computed(folder: Path) -> None:
    child = folder / "child.md"
    line = "`training.steps`: `8` → `16`"
    assert read_record(child).changes == (f"- {line}",)
    assert problems(read_record(child), folder) == ()
    child.write_text(child.read_text().replace("`16`", "`17`"))
    (problem,) = problems(read_record(child), folder)
    assert "## Changes' does not match the recipes" in problem
    assert "experiment check child --write" in problem
    assert refresh_changes(child)
    assert not refresh_changes(child)
    assert problems(read_record(child), folder) == ()


def test_changes_name_the_dataset_and_what_one_recipe_lacks() -> None:
    changes = changes_between(
        ({"a": {"b": 1}, "name": "x"}, "demo"), ({"a": {"c": 2}, "name": "y"}, "clips@1")
    )
    assert [change.line() for change in changes] == [
        "`a.b`: `1` → `null`",
        "`a.c`: `null` → `2`",
        "`dataset`: `demo` → `clips@1`",
    ]


@pytest.mark.parametrize(
    "value", [None, True, False, 0.5, "text", ["vision", "audio"], [None, False], ["x" * 70, "y" * 20]]
)
def test_a_change_that_an_earlier_version_wrote_as_python_reads_as_yaml(value: object) -> None:
    text = str(value) if len(str(value)) <= 80 else f"{str(value)[:79]}…"
    line = Change(what="a.b", before=1e-05, after=value).line()
    assert current_line(f"`a.b`: `1e-05` → `{text}`") == line
    assert current_line(line) == line


def test_what_came_after_the_run_is_no_part_of_the_digest(folder: Path) -> None:
    before = read_record(folder / "child.md").digest()
    close_record(
        folder / "child.md",
        lessons="Longer is better.",
        next_steps="Longer still.",
        rows=[seen_row(folder / "child.md", "a" * 16, 0.9)],
    )
    assert read_record(folder / "child.md").digest() == before


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("accuracy.av.joint >= 0.9", {"at_least": 0.9}),
        ("accuracy.av.joint.low<=chance", {"at_most": "chance"}),
        ("accuracy.av.joint over champion > -0.02", {"over": "champion", "above": -0.02}),
        ("daily-omni: loss.av.all < 1e-1".replace(": ", ":"), {"task": "daily-omni", "below": 0.1}),
    ],
)
def test_statements_are_expectations(text: str, fields: dict[str, Any]) -> None:
    found = parse_statement(text).model_dump(exclude_none=True)
    del found["metric"]
    assert found == fields


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("it works", "write METRIC >= NUMBER"),
        ("accuracy.av.joint >= lots", "write METRIC >= NUMBER"),
        ("accuracy.joint >= 0.9", "not a number of an evaluation"),
        ("accuracy.av.joint over luck >= 0.1", "parent"),
    ],
)
def test_an_invalid_statement_is_one_line(text: str, problem: str) -> None:
    with pytest.raises(ExperimentError, match=problem) as caught:
        parse_statement(text)
    assert "\n" not in str(caught.value)


def test_a_draft_says_all_that_it_lacks(tmp_path: Path) -> None:
    path = new_record(tmp_path, Draft(id="idea", title="An idea"))
    lacks = problems(read_record(path, draft=True), tmp_path)
    for words in ("expected", "Hypothesis", "Rationale", "Next steps", "recipe: name the recipe"):
        assert any(words in problem for problem in lacks), words
    with pytest.raises(ExperimentError, match="expected: at least one checkable statement is missing"):
        require_record(str(path), "parts")
    with pytest.raises(ExperimentError, match=r"expected: at least"):
        require_record(str(path), "everything")
    assert require_record(str(path), "nothing")[2] == lacks


def test_a_cluster_requires_more_than_this_machine(tmp_path: Path) -> None:
    words = {**WHOLE, "hypothesis": ""}
    path = new_record(tmp_path, Draft(id="idea", title="An idea", recipe="quick", **words))
    assert require_record(str(path), "parts")[2] == (
        "the section '## Hypothesis' still has the template's text",
    )
    with pytest.raises(ExperimentError, match=r"idea\.md is incomplete: .*--allow-incomplete-record"):
        require_record(str(path), "everything")


def test_a_missing_parent_or_recipe_is_named(folder: Path) -> None:
    (folder / "longer.yaml").unlink()
    (problem,) = problems(read_record(folder / "child.md"), folder)
    assert "longer.yaml" in problem
    (folder / "root.md").unlink()
    (folder / "longer.yaml").write_text("base: quick\noverrides: {}\n")
    (problem,) = problems(read_record(folder / "child.md"), folder)
    assert "there is no record 'root'" in problem


def test_an_unfinished_record_does_not_reach_a_cluster(tmp_path: Path) -> None:
    path = new_record(tmp_path, Draft(id="idea", title="An idea"))
    for command in (
        ["submit", "quick", "--experiment", str(path), "--output-dir", str(tmp_path / "out")],
        ["train", "quick", "--dataset", "demo", "--launcher", "kubernetes", "--experiment", str(path)],
        ["open-run", "quick", "--experiment", str(path), "--output-dir", str(tmp_path / "out")],
    ):
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, UserError), done.output
        assert "idea.md" in str(done.exception)
    assert not (tmp_path / "out" / "state").exists()
    shown = CliRunner().invoke(
        app, ["submit", "quick", "--experiment", str(path), "--allow-incomplete-record", "--print"]
    )
    assert "--allow-incomplete-record" in shown.output


@pytest.mark.parametrize(
    ("dataset", "statement", "said"),
    [
        ("demo", "accuracy.av.spatial >= 0.9", "family 'spatial' is not one of visual, audio, joint, all"),
        ("mine", "accuracy.av.spatial >= 0.9", None),
        ("demo", "dayly-omni:accuracy.av.joint >= 0.9", "task 'dayly-omni' .* did you mean daily-omni?"),
        ("demo", "my-task:accuracy.av.spatial >= 0.9", None),
    ],
)
def test_names_that_no_evaluation_of_its_runs_will_have_are_problems(
    tmp_path: Path, dataset: str, statement: str, said: str | None
) -> None:
    draft = {**WHOLE, "expected": (parse_statement(statement),), "dataset": dataset}
    path = new_record(tmp_path, Draft(id="root", title="Root", recipe="quick", **draft), created=DAY)
    found = problems(read_record(path), tmp_path)
    assert len(found) == (said is not None)
    if said:
        assert re.search(said, found[0])


def test_check_says_what_is_missing_and_fails(folder: Path) -> None:
    done = CliRunner().invoke(app, ["experiment", "check", "child", "--folder", str(folder)])
    assert (done.exit_code, "complete, 1 expectation" in done.output) == (0, True)
    text = (folder / "child.md").read_text()
    (folder / "child.md").write_text(text.replace("It has ears.", "").replace("`16`", "`1`"))
    done = CliRunner().invoke(app, ["experiment", "check", "child", "--write", "--folder", str(folder)])
    assert done.exit_code == 1
    assert "the section '## Rationale' is missing or empty" in done.output
    assert "`16`" in (folder / "child.md").read_text()
    done = CliRunner().invoke(app, ["experiment", "check", "child", "--json", "--folder", str(folder)])
    said = json.loads(done.output)
    assert (done.exit_code, said["updated"], said["expected"]) == (1, False, 1)
    assert said["problems"][0].startswith("the section '## Rationale'")


def test_closing_needs_lessons_next_steps_and_a_run(folder: Path) -> None:
    path = folder / "root.md"
    row = seen_row(path, "a" * 16, 0.95)
    for missing, given in (
        ("--lessons is empty", {"lessons": " ", "next_steps": "n", "rows": [row]}),
        ("--next-steps is empty", {"lessons": "l", "next_steps": "", "rows": [row]}),
        ("it has no runs", {"lessons": "l", "next_steps": "n", "rows": []}),
    ):
        with pytest.raises(ExperimentError, match=rf"root\.md stays open: .*{missing}"):
            close_record(path, **given)  # type: ignore[arg-type]
    closed = close_record(path, lessons="It hears.", next_steps="More.", rows=[row, row], closed=DAY)
    assert (closed.lessons, closed.next_steps, closed.closed) == ("It hears.", "- More tones.\n\nMore.", DAY)
    assert closed.observed == (row,)
    with pytest.raises(ExperimentError, match="was closed on 2026-11-23; create a new one"):
        close_record(path, lessons="l", next_steps="n", rows=[row])


def test_close_takes_the_rows_of_the_output_folder_and_asks_nobody(folder: Path, tmp_path: Path) -> None:
    source, out = folder / "root.md", tmp_path / "out"
    outcome = make_outcome(
        read_record(source),
        evaluation(0.95),
        run="a" * 16,
        date=DAY,
        seed=0,
        dataset_commit="d" * 64,
        git_commit=None,
    )
    write_outcome(source, out / "experiments" / "root.md", outcome)
    command = ["experiment", "close", "root", "--folder", str(folder), "--output-dir", str(out)]
    done = CliRunner().invoke(app, [*command, "--lessons", "It hears."])
    assert "--next-steps is missing" in str(done.exception)
    assert read_record(source).closed is None
    done = CliRunner().invoke(app, [*command, "--lessons", "It hears.", "--next-steps", "More."])
    assert done.exit_code == 0, done.exception
    assert "met by 0.05" in done.output
    assert len(read_record(source).observed) == 1


def test_outcomes_say_by_how_much_also_over_the_parent(folder: Path) -> None:
    over = {"parent": Baseline(label="run b", evaluation=evaluation(0.5))}
    row = seen_row(folder / "child.md", "a" * 16, 0.51, baselines=over, incomplete=("no rationale",))
    assert "accuracy.av.joint over parent at least 0.02: 0.01 [-0.06, 0.08], missed by 0.01" in row
    assert "the record was incomplete: no rationale" in row
    seen = parse_run_row(row)
    assert (seen.run, seen.date, seen.tally) == ("a" * 16, "2026-11-23", (0, 1, 0))
    unmeasured = parse_run_row(seen_row(folder / "child.md", "a" * 16, 0.51))
    assert unmeasured.tally == (0, 0, 1)


def test_the_tree_shows_the_outcome_of_each(folder: Path) -> None:
    rows = {"root": [seen_row(folder / "root.md", "a" * 16, 0.95)]}
    nodes = experiment_tree(list_records(folder), rows)
    assert [(node.record.id, node.depth, node.state, node.words) for node in nodes] == [
        ("root", 0, "met", "1 of 1 met"),
        ("child", 1, "not run", "not run"),
    ]
    drawn = folder / "tree.svg"
    command = ["experiment", "graph", "--folder", str(folder), "--output-dir", str(folder / "none")]
    done = CliRunner().invoke(app, [*command, "--draw", str(drawn)])
    assert "child not run" in done.output
    assert "Longer" in drawn.read_text()


def test_search_finds_lessons_first_and_every_word(folder: Path) -> None:
    records = list_records(folder)
    assert [(hit.id, hit.section) for hit in search_records(records, ["HEARS"])] == [
        ("child", "Hypothesis"),
        ("root", "Hypothesis"),
    ]
    assert search_records(records, ["hears", "nothing"]) == ()
    ours = search_records(list_records(experiments_folder()), ["tones", "learned"])
    assert ours[0].section == "Lessons"
    done = CliRunner().invoke(app, ["experiment", "search", "no such word", "--folder", str(folder)])
    assert done.exit_code == 1
    done = CliRunner().invoke(app, ["experiment", "search", "hears", "--json", "--folder", str(folder)])
    assert [hit["id"] for hit in json.loads(done.output)] == ["child", "root"]


def test_a_drawing_is_one_file_that_names_nothing_outside(tmp_path: Path) -> None:
    boxes = [
        Box(title="<root> & co", lines=("a long line " * 12,), depth=0, state="good"),
        Box(title="first", lines=("x",), depth=1, state="bad"),
        Box(title="grandchild", lines=(), depth=2),
        Box(title="second", lines=("y",), depth=1, state="open"),
    ]
    svg = ElementTree.fromstring(draw_tree("A <tree>", boxes))
    name = "{http://www.w3.org/2000/svg}"
    rects = [
        tuple(float(rect.get(side) or 0) for side in ("x", "y", "width", "height"))
        for rect in svg.iter(f"{name}rect")
    ]
    assert len(rects) == 4
    assert len(list(svg.iter(f"{name}path"))) == 3
    for index, (x, y, width, height) in enumerate(rects):
        assert x + width <= float(svg.get("width") or 0)
        assert y + height <= float(svg.get("height") or 0)
        for other_x, other_y, *_ in rects[index + 1 :]:
            assert other_x != x or other_y >= y + height
    write_diagram(tmp_path / "tree.html", "A <tree>", boxes)
    page = (tmp_path / "tree.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "A &lt;tree&gt;" in page
