import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llava_av.registry.expectations import Check
from llava_av.report import render_report, write_report
from llava_av.report.run_report.view import accuracy_table
from llava_av.runs import GateDecision, QuarantinedFile
from tests import report_sample

_VOID = {"meta", "img", "br", "wbr", "link", "input", "hr", "col", "source"}


class Page(HTMLParser):
    """Parser of a page into elements, references and visible text; tags must nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        names = ("src", "href", "xlink:href", "poster", "action", "data", "srcset")
        self.references += [given[name] for name in names if name in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return report_sample.make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def html(clips: dict[str, Path]) -> str:
    return render_report(report_sample.inputs(clips))


def page(**changes: Any) -> Page:
    """Return a parsed page without training curves, which take most of the time."""
    return Page(render_report(report_sample.inputs({}, **{"metrics": [], **changes})))


def test_shows_the_whole_run(html: str) -> None:
    shown = Page(html)
    for text in (
        "Gate passed",
        "dryrun version 3 is now champion.",
        "A model of a million parameters answers",
        "missed",
        "the same on eight GPUs",
        "Video only",
        "Which colour was on screen while the high tone sounded?",
        "truncated: the file ends 3,214 bytes before its index says",
        "c" * 64,
        "with uncommitted changes, stored as a patch",
        "siglip_vision_model",
        "package-p",
        "s3://llava-av/checkpoints/0f1e2d3c4b5a6978/step-00000300",
        "2 min 09 s",
        "make dryrun",
        "llava-av chat",
        "By kind of question",
        "Confusion matrices",
        "Compared with the parent: run 9a8b7c6d5e4f3a2b of longer-clips",
        "answered different questions",
        "0.07 process-hours",
        "482 k prompt, 9.12 k generated",
    ):
        assert text in shown.text, text
    assert shown.count("video") == 8
    # Ten for accuracy and training, one for the kinds of question per ablation, and one waveform per clip.
    assert shown.count("svg") == 10 + 5 + 8
    assert sum("poster" in attributes for _, attributes in shown.elements) == 8
    assert sum(attributes.get("class") == "strip" for _, attributes in shown.elements) == 8


def test_a_metric_breaks_after_its_dots_only_and_stacked_cells_have_labels(html: str) -> None:
    assert "<code>accuracy.<wbr>av.<wbr>joint</code>" in html
    labels = [
        given["data-label"] for tag, given in Page(html).elements if tag == "td" and "data-label" in given
    ]
    expected = ["Outcome", "Expected", "Observed", "95\u00a0% interval"]
    assert labels[: 4 * 4] == expected * 4
    assert {"Baseline", "This run", "Difference"} <= set(labels)


def test_accuracy_and_outcomes_come_before_prose(html: str) -> None:
    order = [html.index(f'id="{name}"') for name in ("expected", "accuracy", "experiment")]
    assert order == sorted(order)
    assert html.index("Accuracy, joint questions") < order[0]


@pytest.mark.parametrize(("loss", "correct", "heading"), [(0.04, True, "Sample"), (0.3, True, "Hardest")])
def test_clips_without_errors_and_losses_are_not_called_hard(
    loss: float, correct: bool, heading: str
) -> None:
    rows = [{**row, "loss": loss, "correct": correct} for row in report_sample.predictions(16)]
    assert f"{heading} clips" in page(predictions=rows).text


def test_refers_to_nothing_outside_itself(html: str) -> None:
    shown = Page(html)
    assert shown.references
    assert [ref[:40] for ref in shown.references if not ref.startswith(("#", "data:"))] == []
    assert (shown.count("script"), shown.count("link"), shown.count("iframe")) == (1, 0, 0)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html
    assert not any(name.startswith("on") for _, attributes in shown.elements for name in attributes)
    styles = " ".join(
        re.findall(r"<style>(.*?)</style>", html, re.DOTALL) + re.findall(r'style="([^"]*)"', html)
    )
    assert "@import" not in styles
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html


def test_every_reference_within_the_page_has_one_target(html: str) -> None:
    shown = Page(html)
    assert len(shown.ids) == len(set(shown.ids))
    targets = {ref[1:] for ref in shown.references if ref.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]*)\)", html))
    assert targets <= set(shown.ids)


def test_text_from_outside_never_becomes_markup() -> None:
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    rows = report_sample.predictions(16)
    for row in rows:
        row.update(question=evil, reply=evil, answer=evil, id=evil, kind=f"joint_{evil}", clip=evil)
    record = {**report_sample.experiment(), "id": evil, "title": evil, "hypothesis": evil, "lessons": [evil]}
    shown = page(
        title=evil,
        predictions=rows,
        experiment=record,
        gate=GateDecision(passed=False, reasons=(evil,)),
        quarantined=[QuarantinedFile(file=evil, reason=evil)],
        lineage={
            **report_sample.lineage(),
            "recipe": {evil: evil},
            "environment": {"python": evil, "platform": evil, "packages": {evil: evil}, "image": evil},
            "git": {"commit": evil, "dirty": False, "patch_sha256": None},
        },
        reproduce=[evil],
        chat=[evil],
    )
    assert (shown.count("script"), shown.count("img")) == (1, 0)
    assert "a\\u202eb" in page(quarantined=[QuarantinedFile(file="a\u202eb", reason="?")]).text
    assert shown.text.count("<script>alert(1)</script>") > 20


def test_equal_inputs_give_equal_files(tmp_path: Path, clips: dict[str, Path]) -> None:
    write_report(tmp_path / "a.html", report_sample.inputs(clips))
    write_report(tmp_path / "b.html", report_sample.inputs(clips))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    code = (
        "import sys, pathlib\nfrom tests import report_sample\nfrom llava_av.report import write_report\n"
        "files = {f'clips/{path.name}': path for path in pathlib.Path(sys.argv[1]).iterdir()}\n"
        "write_report(pathlib.Path(sys.argv[2]), report_sample.inputs(files))"
    )
    folder = next(iter(clips.values())).parent
    subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "c.html"],
        cwd=Path(__file__).parents[2],
        timeout=120,
        check=True,
    )
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "c.html").read_bytes()


def test_media_stay_within_their_limit_and_what_is_left_out_is_said(clips: dict[str, Path]) -> None:
    html = render_report(report_sample.inputs(clips, max_media_bytes=60_000))
    uris = [ref for ref in Page(html).references if ref.startswith("data:video/")]
    assert 0 < len(uris) < 8
    assert sum(len(uri.partition(",")[2]) for uri in uris) <= 60_000
    assert html.count("60 kB for all media") == 8 - len(uris)


@pytest.mark.parametrize(
    ("gate", "heading", "text"),
    [
        (
            GateDecision(passed=False, reasons=("accuracy.av.joint 0.71 < 0.9",)),
            "Gate failed",
            "accuracy.av.joint 0.71 < 0.9",
        ),
        (GateDecision(passed=None, reasons=("quick run",)), "Gate not run", "quick run"),
        (None, "Gate not run", "No reason was given."),
    ],
)
def test_the_verdict_has_its_reasons(gate: GateDecision | None, heading: str, text: str) -> None:
    shown = page(gate=gate, moved=[]).text
    assert heading in shown
    assert text in shown
    assert "is now champion" not in shown


def test_a_users_own_dataset_has_one_kind_without_chance() -> None:
    cell = {"value": 0.5, "low": 0.2, "high": 0.8, "chance": None, "n": 4, "unparsed": 0}
    shown = page(
        evaluation={"accuracy": {"av": {"all": cell}, "text_only": {"all": cell}}, "differences": {}}
    )
    assert "Accuracy, all questions" in shown.text
    assert "dashed line" not in shown.text
    assert "Effect of each removed" not in shown.text


def test_long_answers_stand_below_each_other() -> None:
    rows = report_sample.predictions(16)
    for row in rows:
        row["reply"] = "first and " * 8 + "last"
    shown = page(predictions=rows)
    assert shown.text.count("first and last") == 8 * 4 * 5
    assert shown.text.count("Expected") == 2 + 8 * 4


def test_missing_pieces_leave_a_page_that_says_so() -> None:
    shown = page(
        evaluation={"accuracy": {}},
        predictions=[],
        metrics=[],
        train=None,
        lineage=None,
        experiment=None,
        quarantined=[],
        reproduce=[],
        chat=[],
        gate=None,
    )
    for text in ("no evaluation", "no training metrics", "no predictions", "None: every sample"):
        assert text in shown.text
    assert "the run is not registered" in shown.text
    assert shown.count("svg") == 0


def test_a_difference_that_holds_zero_is_no_gain() -> None:
    evaluation = report_sample.evaluation(report_sample.predictions(16))
    evaluation["differences"] = {
        "video_only": {"joint": {"value": 0.1, "low": -0.02, "high": 0.2}},
        "audio_only": {"joint": {"value": -0.1, "low": -0.2, "high": -0.01}},
    }
    shown = page(evaluation=evaluation, comparisons=[]).text
    assert "0 within the interval" in shown
    assert "worse" in shown
    assert "better" not in shown


def test_without_parent_and_champion_it_says_so() -> None:
    assert "neither a run of a parent experiment nor a champion" in page(comparisons=[]).text


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, llava_av.report\n"
        "assert not {'matplotlib', 'torch', 'mlflow', 'av'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60, check=True)


def test_an_experiment_record_and_its_checks_can_be_given_as_they_are() -> None:
    check = Check(
        metric="accuracy.text_only.joint", comparison="<=", expected=0.375, by_chance=True, met=None
    )
    open_check = Check(metric="accuracy.av.all", comparison=">=", expected=None, by_chance=True, met=None)
    shown = page(experiment={**report_sample.experiment(), "expected": (check, open_check)}).text
    assert "≤ chance (0.375)" in shown
    assert "≥ chance–" in shown
    assert shown.count("not checked") == 2


def test_inline_code_of_a_record_is_shown_as_code() -> None:
    record = {**report_sample.experiment(), "hypothesis": "Use `<b>x</b>`!", "lessons": ["`one` two"]}
    html = render_report(report_sample.inputs({}, experiment=record))
    assert "<p>Use <code>&lt;b&gt;x&lt;/b&gt;</code>!</p>" in html
    assert "<li><code>one</code> two</li>" in html


def test_the_kinds_of_a_family_stand_below_it() -> None:
    evaluated = report_sample.evaluation(report_sample.predictions(16))
    cell = evaluated["accuracy"]["av"]["joint"]
    bad = {**cell, "value": 0.0, "low": 0.0, "high": 0.1, "loss": 7.125}
    evaluated["kinds"] = {
        name: {"visual": cell, "joint_colour": {**cell, "loss": 0.5}, "joint_tone": bad}
        for name in evaluated["accuracy"]
    }
    inputs = report_sample.inputs({}, evaluation=evaluated)
    table = accuracy_table(inputs.evaluation)
    heads = [(row.questions, row.is_kind, row.rows) for row in table if row.rows]
    families = [(family, False, 5) for family in ("visual", "audio", "joint")]
    assert heads == [*families, ("colour", True, 5), ("tone", True, 5)]
    assert {row.accuracy.value for row in table if row.questions == "tone"} == {0.0}
    shown = Page(render_report(inputs)).text
    assert "7.125" in shown
    assert len(table) == 25


def test_modalities_and_other_tasks_have_tables_of_their_own() -> None:
    shown = Page(render_report(report_sample.inputs({}))).text
    assert "By modalities of the samples" in shown
    assert "video, audioAudio and video" in shown
    assert "Accuracy on other tasks" in shown
    assert "daily-omni" in shown
    alone = report_sample.evaluation(report_sample.predictions(16))
    del alone["modalities"]
    without = Page(render_report(report_sample.inputs({}, evaluation=alone))).text
    assert "By modalities of the samples" not in without
    assert "other tasks" not in without
