"""index.html: every run of a bucket on one page, and the tree of experiments with their outcomes.

The page names nothing outside itself but the reports that lie beside it. Its one script sorts and filters the
table; the content security policy allows that script by its hash and no other.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import AwareDatetime

from llava_av.experiments.overview import ExperimentNode
from llava_av.files import write_whole
from llava_av.frozen import FrozenModel
from llava_av.report.labels import ablation_label, duration, number
from llava_av.report.templates import Filters, render_template
from llava_av.runs import Accuracy

__all__ = ["Headline", "IndexInputs", "IndexedRun", "IndexedTask", "render_index", "write_index"]

_FOLDER = Path(__file__).parent
_SCRIPT = "index.js"


class Headline(FrozenModel):
    """The accuracies of a run that the table shows."""

    family: str = ""
    """Family of the questions."""
    accuracy: Accuracy | None = None
    """With nothing removed."""
    without: Accuracy | None = None
    """The best with a modality removed."""
    without_ablation: str = ""


class IndexedRun(Headline):
    """A run in a line; what it has not come to yet is empty or None."""

    run: str
    experiment: str
    recipe: str
    dataset: str
    seed: int | None = None
    at: AwareDatetime | None = None
    """When it was opened."""
    by: str = ""
    """Who opened it."""
    commit: str = ""
    """Git commit of its code, or the code's digest where there is none."""
    dirty: bool = False
    """Whether the code differed from the commit."""
    met: int = 0
    """Expectations of its record that were met."""
    missed: int = 0
    unmeasured: int = 0
    gate: str = ""
    """`passed`, `failed`, `not run`, or empty."""
    version: str = ""
    """Such as `dryrun 3`; empty if it was not registered."""
    aliases: tuple[str, ...] = ()
    """Aliases that the version has now."""
    process_hours: float | None = None
    """Of training and evaluation."""
    state: str
    """How far it came: `opened`, `trained`, `evaluated`."""
    report: str = ""
    """Where its report is, as seen from the page; empty if it has none."""


class IndexedTask(FrozenModel):
    """A model on a benchmark, one family of its questions."""

    run: str
    task: str
    step: int
    """Optimizer steps behind the checkpoint."""
    family: str
    accuracy: Accuracy


class IndexInputs(FrozenModel):
    """Everything that `write_index` shows."""

    bucket: str
    """Where the runs are, such as `s3://llava-av`."""
    runs: tuple[IndexedRun, ...]
    """Newest first."""
    tasks: tuple[IndexedTask, ...] = ()
    experiments: tuple[ExperimentNode, ...] = ()
    """Each record before its children."""


def write_index(path: Path, inputs: IndexInputs) -> None:
    """Write `render_index` to a file; readers find the old file or the whole new one."""
    write_whole(path, render_index(inputs))


def render_index(inputs: IndexInputs) -> str:
    """Return the page as HTML; equal inputs give equal text."""
    script = (_FOLDER / _SCRIPT).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = {
        "inputs": inputs,
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "branches": tuple(_branches(inputs.experiments, inputs.runs)),
        "champions": sum("champion" in run.aliases for run in inputs.runs),
        "hours": sum(run.process_hours or 0.0 for run in inputs.runs),
    }
    filters: Filters = {"ablation": ablation_label, "duration": duration, "number": number}
    return render_template("run_index/index.html.j2", values, html=True, filters=filters)


def _branches(nodes: Sequence[ExperimentNode], runs: Sequence[IndexedRun]) -> Iterator[dict[str, Any]]:
    """Each experiment with how many lists open before it and close behind it."""
    reports: dict[str, list[IndexedRun]] = {}
    for run in runs:
        reports.setdefault(run.experiment, []).append(run)
    for place, node in enumerate(nodes):
        after = nodes[place + 1].depth if place + 1 < len(nodes) else 0
        yield {
            "node": node,
            "opens": after > node.depth,
            "closes": max(0, node.depth - after),
            "runs": reports.get(node.record.id, []),
        }
