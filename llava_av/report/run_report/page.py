"""Page report.html with the result of a run, the evidence for it and the commands that repeat it.

The page has no external references. Its only script copies commands and lays out players. Its content
security policy allows this script alone, by its hash, so that text from a dataset or a model cannot run code.
"""

from pathlib import Path

import yaml
from markupsafe import Markup

from llava_av.errors import printable
from llava_av.files import write_whole
from llava_av.report.labels import ablation_label, duration, number
from llava_av.report.previews import WAVE_HEIGHT, WAVE_WIDTH
from llava_av.report.prose import blocks, spans
from llava_av.report.run_report import view
from llava_av.report.run_report.accuracy_plots import accuracy_figures, kind_figures
from llava_av.report.run_report.clips import HARD_LOSS, MOST_CLIPS, choose_clips, has_hard
from llava_av.report.run_report.confusion import confusions
from llava_av.report.run_report.cost import cost_rows, step_rows
from llava_av.report.run_report.forest import comparison_rows, difference_rows
from llava_av.report.run_report.inputs import ReportInputs
from llava_av.report.run_report.plots import Figure, training_figures
from llava_av.report.templates import Filters, inline_script, render_template

__all__ = ["render_report", "write_report"]


def write_report(path: Path, inputs: ReportInputs) -> None:
    """Write the page to a file atomically."""
    write_whole(path, render_report(inputs))


def render_report(inputs: ReportInputs) -> str:
    """Return the page as HTML; equal inputs give equal text."""
    filters: Filters = {
        "ablation": ablation_label,
        "duration": duration,
        "number": number,
        "printable": printable,
        "prose": blocks,
        "spans": spans,
        "svg": _inline,
    }
    return render_template("run_report/report.html.j2", _context(inputs), html=True, filters=filters)


def _context(inputs: ReportInputs) -> dict[str, object]:
    summary, lineage = inputs.summary, inputs.lineage
    recipe = lineage.recipe_json if lineage is not None else None
    clips = choose_clips(inputs.predictions, inputs.clips, count=MOST_CLIPS, max_bytes=inputs.max_media_bytes)
    return {
        "inputs": inputs,
        "summary": summary,
        "verdict": view.verdict(summary, inputs.moved),
        "tiles": view.tiles(inputs),
        "bars": accuracy_figures(summary.accuracy),
        "accuracy": view.accuracy_table(inputs.evaluation),
        "modalities": view.modality_table(inputs.evaluation),
        "tasks": view.task_tables(inputs.evaluation),
        "kinds": kind_figures(inputs.evaluation.kinds),
        "confusions": confusions(inputs.predictions),
        "differences": difference_rows(inputs.evaluation),
        "comparisons": [(comparison, comparison_rows(comparison)) for comparison in inputs.comparisons],
        "curves": _curves(inputs),
        "stages": view.stage_table(inputs),
        "clips": clips,
        "hard": has_hard(clips),
        "hard_loss": HARD_LOSS,
        "script": inline_script("run_report/report.js"),
        "tally": view.tally(inputs.predictions),
        "lineage": view.lineage_rows(inputs),
        "recipe": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else "",
        "packages": sorted(lineage.environment.packages.items()) if lineage is not None else [],
        "costs": cost_rows(inputs),
        "steps": step_rows(summary.seconds),
        "wave_box": f"0 0 {WAVE_WIDTH} {WAVE_HEIGHT}",
    }


def _curves(inputs: ReportInputs) -> tuple[Figure, ...]:
    train = inputs.train
    if train is None:
        return training_figures(inputs.metrics)
    stages = {stage.name: stage.first_step for stage in train.stages}
    return training_figures(inputs.metrics, resumed_from=train.resumed_from, stages=stages)


def _inline(figure: Figure) -> Markup:
    """Return the markup of a figure unchanged; its text is already escaped."""
    return Markup(figure.svg)
