"""Computed parts of the report: confusion matrices, differences, cost and previews."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llava_av.media.encode import write_clip
from llava_av.report.previews import WAVE_HEIGHT, Preview, preview, wave_path
from llava_av.report.run_report.accuracy_plots import kind_figures
from llava_av.report.run_report.confusion import UNPARSED, confusions
from llava_av.report.run_report.cost import cost_rows
from llava_av.report.run_report.forest import comparison_rows, difference_rows
from llava_av.runs import Accuracy, ModelComparison, Prediction, Scores
from tests import report_sample


def row(answer: str, parsed: str | None, *, kind: str = "visual", ablation: str = "av") -> Prediction:
    fields = {"id": "s", "ablation": ablation, "kind": kind, "question": "?", "choices": ("red", "blue")}
    return Prediction.model_validate(
        {
            **fields,
            "answer": answer,
            "reply": parsed or "…",
            "parsed": parsed,
            "correct": parsed == answer,
            "loss": 0.1,
        }
    )


def test_confusion_counts_replies_by_right_answer_given_everything() -> None:
    rows = [row("red", "red"), row("red", "red"), row("red", "blue"), row("blue", None), row("blue", "blue")]
    rows += [row("red", "blue", ablation="text_only")] * 9
    (matrix,) = confusions(rows)
    assert matrix.columns == ("blue", "red", UNPARSED)
    assert [(line.answer, line.counts) for line in matrix.rows] == [("blue", (1, 0, 1)), ("red", (1, 2, 0))]
    assert matrix.rows[1].shares == (33.3, 66.7, 0.0)


def test_kinds_with_many_or_long_answers_have_no_matrix() -> None:
    many = [row(f"thing {number}", f"thing {number}") for number in range(13)]
    long = [row("a whole sentence as an answer", "blue", kind="audio")]
    alone = [row("red", "red", kind="joint")]
    assert confusions([*many, *long, *alone]) == ()
    assert len(confusions(many[:12])) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["a", "b", "c", None])), min_size=1, max_size=40
    )
)
def test_confusion_loses_no_question(pairs: list[tuple[str, str | None]]) -> None:
    for matrix in confusions(row(answer, parsed) for answer, parsed in pairs):
        assert sum(sum(line.counts) for line in matrix.rows) == len(pairs)
        hits = sum(line.counts[matrix.columns.index(line.answer)] for line in matrix.rows)
        assert hits == sum(answer == parsed for answer, parsed in pairs)


def test_compared_models_share_an_axis_with_zero_on_it() -> None:
    parent = ModelComparison.model_validate(report_sample.comparisons()[0])
    rows = comparison_rows(parent)
    assert [line.verdict for line in rows] == ["open", "better", "worse"]
    assert {line.zero for line in rows} == {rows[0].zero}
    assert 0 < rows[0].zero < 100
    for line in rows:
        assert line.left <= line.point <= line.left + line.width + 0.01
        assert (line.point > line.zero) == (line.difference.value > 0)


def test_without_differences_there_are_no_rows() -> None:
    assert difference_rows(Scores(accuracy={})) == ()


def test_cost_is_that_of_all_processes() -> None:
    rows = {line.name: line.value for line in cost_rows(report_sample.inputs({}))}
    # 128.9 s of two processes; 300 steps of 0.22 s at about 6,200 tokens a second
    assert rows["Training"] == "0.07 process-hours"
    assert rows["Waiting for data"] == "1.8 %"
    assert 400 < float(rows["Tokens trained on"].split()[0]) < 418
    assert rows["Tokens evaluated on"] == "482 k prompt, 9.12 k generated"


def test_utilisation_and_padding_are_shown_where_they_are_known() -> None:
    sample = report_sample.inputs({})
    known = [{**row, "mfu": 0.41, "padding_share": 0.125} for row in sample.metrics]
    rows = {line.name: line.value for line in cost_rows(sample.model_copy(update={"metrics": tuple(known)}))}
    assert (rows["Model FLOPs utilisation"], rows["Padding"]) == ("41.0 %", "12.5 %")
    assert "Padding" not in {line.name for line in cost_rows(sample)}


def test_a_run_without_numbers_has_no_cost() -> None:
    sample = report_sample.inputs({})
    bare = {"train": None, "metrics": (), "evaluation": sample.evaluation.model_copy(update={"cost": None})}
    assert cost_rows(sample.model_copy(update=bare)) == ()


def test_kinds_that_are_families_have_no_panels() -> None:
    cell = Accuracy(value=0.5, low=0.4, high=0.6, chance=0.25, n=40, unparsed=0)
    assert kind_figures({"av": {"visual": cell, "audio": cell}}) == ()
    (panel,) = kind_figures({"av": {"visual": cell, "joint_colour": cell, "joint_tone": cell}})
    assert "joint: colour: 0.50, interval 0.40 to 0.60" in panel.svg


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a clip of two seconds, 64 x 32, with audio in its second half only."""
    path = tmp_path_factory.mktemp("clip") / "half.mp4"
    frames = np.zeros((20, 32, 64, 3), np.uint8)
    frames[10:, :, :, 0] = 255
    audio = np.sin(np.arange(32_000) * 0.2).astype(np.float32) * (np.arange(32_000) >= 16_000)
    write_clip(path, frames, 10, audio.astype(np.float32), 16_000)
    return path


def test_a_clip_at_a_glance(clip: Path) -> None:
    found = preview(clip)
    assert found == preview(clip)
    assert found.poster.startswith("data:image/jpeg;base64,/9j/")
    assert found.strip.startswith("data:image/jpeg;base64,/9j/")
    assert found.duration_s == pytest.approx(2, abs=0.1)
    heights = _heights(found.wave)
    quarter = len(heights) // 4
    assert max(heights[:quarter]) < 2
    assert min(heights[-quarter:-2]) > 8 * max(heights[:quarter])


def test_what_does_not_decode_has_no_preview(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no media")
    assert preview(broken) == Preview()
    assert preview(tmp_path / "missing.mp4") == Preview()


@given(arrays.arrays(np.float32, st.integers(0, 700), elements=st.floats(-1, 1, width=32)))
def test_a_waveform_stays_in_its_box(audio: Any) -> None:
    path = wave_path(audio)
    assert bool(path) == bool(len(audio))
    ys = [float(point.split()[1]) for point in path.strip("MZ").split("L") if point]
    assert all(0 <= y <= WAVE_HEIGHT for y in ys)


def _heights(path: str) -> list[float]:
    ys = [float(point.split()[1]) for point in path.strip("MZ").split("L")]
    tops, bottoms = ys[: len(ys) // 2], ys[len(ys) // 2 :][::-1]
    return [bottom - top for top, bottom in zip(tops, bottoms, strict=True)]
