import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from llava_av.report.run_report.accuracy_plots import accuracy_figures
from llava_av.report.run_report.plots import training_figures
from llava_av.runs import Accuracy


def cell(value: float = 0.9, chance: float | None = 0.25, n: int = 100) -> Accuracy:
    return Accuracy(
        value=value, low=max(0, value - 0.05), high=min(1, value + 0.05), chance=chance, n=n, unparsed=0
    )


def rows(steps: int = 40) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": 3 / step, "loss/audio": 2 / step, "loss/joint": 4 / step}
        for step in range(1, steps + 1)
    ]


def words(svg: str) -> list[str]:
    """Return the texts in a figure, which must be well-formed."""
    return [
        text for element in ElementTree.fromstring(svg).iter("text") if (text := "".join(element.itertext()))
    ]


def test_bars_name_every_ablation_value_and_chance() -> None:
    (figure,) = accuracy_figures({"text_only": {"joint": cell(0.25)}, "av": {"joint": cell(0.975)}})
    texts = words(figure.svg)
    assert [text for text in texts if text in ("Audio and video", "Text only")] == [
        "Audio and video",
        "Text only",
    ]
    assert {"0.975", "0.250", "chance 0.25"} <= set(texts)
    assert figure.caption == "n = 100"


def test_bars_without_chance_draw_no_line() -> None:
    (figure,) = accuracy_figures({"av": {"all": cell(chance=None)}})
    assert "stroke-dasharray" not in figure.svg
    assert "chance" not in figure.svg


def test_families_are_panels_in_order() -> None:
    figures = accuracy_figures({"av": {"joint": cell(), "visual": cell(), "audio": cell()}})
    assert [figure.title for figure in figures] == ["Visual questions", "Audio questions", "Joint questions"]


def test_curves_are_there_for_what_was_measured() -> None:
    assert [figure.title for figure in training_figures(rows())] == [
        "Training loss",
        "Loss by family of questions",
    ]
    assert training_figures([]) == ()


def test_lines_that_share_a_panel_are_named_at_their_ends() -> None:
    texts = words(training_figures(rows())[1].svg)
    assert {"audio", "joint"} <= set(texts)


def test_kinds_have_a_panel_where_a_family_has_several() -> None:
    same = [{**row, "loss/kind/audio": 1.0, "loss/kind/joint": 2.0} for row in rows()]
    assert len(training_figures(same)) == 2
    several = [{**row, "loss/kind/joint_tone": 9.0, "loss/kind/joint_colour": 0.5} for row in same]
    figure = training_figures(several)[2]
    assert figure.title == "Loss by kind of question"
    assert {"audio", "joint colour", "joint tone"} <= set(words(figure.svg))


def test_modalities_have_a_panel_only_where_there_are_several() -> None:
    one = [{"step": 1, "loss": 1.0, "loss/modality/video": 1.0}]
    two = [{"step": 1, "loss": 1.0, "loss/modality/video": 1.0, "loss/modality/video_audio": 2.0}]
    assert len(training_figures(one)) == 1
    assert training_figures(two)[1].title == "Loss by modality"


def test_held_out_loss_is_drawn_beside_the_training_loss() -> None:
    measured = [
        {**row, "held_out/loss": 1.5, "held_out/loss/modality/text": 1.0, "held_out/loss/modality/video": 2.0}
        for row in rows()[::10]
    ]
    first, *others = training_figures([*rows(), *measured])
    assert first.title == "Training and held-out loss"
    assert {"training", "held-out"} <= set(words(first.svg))
    modalities = next(figure for figure in others if figure.title == "Held-out loss by modality")
    assert {"text", "video"} <= set(words(modalities.svg))


def test_steps_that_are_not_finite_are_counted_not_hidden() -> None:
    figure = training_figures([*rows(), {"step": 41, "loss": math.nan}, {"step": 42, "loss": math.inf}])[0]
    assert "2 steps" in figure.caption


def test_the_last_line_of_a_step_counts() -> None:
    again = training_figures([*rows(), {"step": 1, "loss": 7.0}])[0].svg
    assert "7 at the first step" in again


def test_a_resumed_run_says_where() -> None:
    assert "resumed" in words(training_figures(rows(), resumed_from=20)[0].svg)


def test_one_step_is_enough() -> None:
    (figure,) = training_figures([{"step": 1, "loss": 0.0}])
    assert words(figure.svg)


def test_long_runs_stay_small() -> None:
    assert (
        len(training_figures([{"step": step, "loss": 1 + step % 7} for step in range(50_000)])[0].svg)
        < 60_000
    )


def test_figures_take_the_colours_of_the_page_and_hold_no_reference() -> None:
    for figure in (*training_figures(rows()), *accuracy_figures({"av": {"joint": cell()}})):
        assert "var(--accent)" in figure.svg
        assert "#0" not in figure.svg.replace('"#', "").replace("(#", "")
        assert not any(word in figure.svg for word in ("http", "xlink", "<style", "<metadata", "DejaVu"))


def test_names_from_a_dataset_cannot_become_markup() -> None:
    name = '<script>"$x$" ; font-family: &#010101'
    figures = (
        *accuracy_figures({"av": {name: cell()}}),
        *training_figures([{"step": 1, f"loss/{name}": 1.0, "loss/b": 2.0}]),
    )
    for figure in figures:
        assert "<script" not in figure.svg.lower()
        assert ElementTree.fromstring(figure.svg).get("aria-label")


def test_the_same_figure_twice_is_the_same_text() -> None:
    assert training_figures(rows()) == training_figures(rows())


@pytest.mark.parametrize("writable", [True, False])
def test_draws_without_a_word_wherever_home_is(tmp_path: Path, writable: bool) -> None:
    home = tmp_path if writable else Path("/dev/null/home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))}
    code = (
        "from llava_av.report.run_report.plots import training_figures\n"
        "assert training_figures([{'step': 1, 'loss': 1.0}, {'step': 2, 'loss': 0.5}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
