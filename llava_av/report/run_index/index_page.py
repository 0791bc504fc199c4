"""Index page with all runs of a bucket and the tree of experiments with their outcomes.

The page links only to the reports next to it. One script sorts and filters the table; the content security
policy allows only this script, by its hash.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import AwareDatetime

from llava_av.experiments.overview import ExperimentNode
from llava_av.files import write_whole
from llava_av.frozen import FrozenModel
from llava_av.report.labels import ablation_label, duration, number
from llava_av.report.templates import Filters, inline_script, render_template
from llava_av.runs import Accuracy

__all__ = ["Headline", "IndexInputs", "IndexedRun", "IndexedTask", "render_index", "write_index"]


class Headline(FrozenModel):
    """Accuracies of a run in the table."""

    family: str = ""
    """Family of the questions."""
    accuracy: Accuracy | None = None
    """Accuracy with all modalities."""
    without: Accuracy | None = None
    """Best accuracy with a modality removed."""
    without_ablation: str = ""


class IndexedRun(Headline):
    """A row of the table; values that do not exist yet are empty or None."""

    run: str
    experiment: str
    recipe: str
    dataset: str
    seed: int | None = None
    at: AwareDatetime | None = None
    """Time at which the run was opened."""
    by: str = ""
    """User who opened the run."""
    commit: str = ""
    """Git commit of the code, or the digest of the code without a commit."""
    dirty: bool = False
    """True if the code differed from the commit."""
    met: int = 0
    """Number of expectations that were met."""
    missed: int = 0
    unmeasured: int = 0
    gate: str = ""
    """`passed`, `failed`, `not run`, or empty."""
    version: str = ""
    """Model version, such as `dryrun 3`; empty if the run is not registered."""
    aliases: tuple[str, ...] = ()
    """Aliases that the version has now."""
    process_hours: float | None = None
    """Process-hours of training and evaluation."""
    state: str
    """Progress: `opened`, `trained` or `evaluated`."""
    report: str = ""
    """Path of the report relative to the page; empty without a report."""

    @property
    def words(self) -> str:
        """Return the run in words, such as `dryrun · seed 0 · 23 Nov`; runs of one day may share them."""
        seed = () if self.seed is None else (f"seed {self.seed}",)
        day = (f"{self.at.day} {self.at:%b}",) if self.at else ()
        return " · ".join((self.recipe, *seed, *day))


class IndexedTask(FrozenModel):
    """Accuracy of a model on one family of questions of a benchmark."""

    run: str
    task: str
    step: int
    """Optimizer steps of the checkpoint."""
    family: str
    accuracy: Accuracy


class IndexInputs(FrozenModel):
    """Everything that `write_index` shows."""

    bucket: str
    """URI of the bucket, such as `s3://llava-av`."""
    runs: tuple[IndexedRun, ...]
    """Newest first."""
    tasks: tuple[IndexedTask, ...] = ()
    experiments: tuple[ExperimentNode, ...] = ()
    """Records, each before its children."""


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """An experiment with its runs, and the nested lists that open and close after it."""

    node: ExperimentNode
    opens: bool
    closes: int
    runs: tuple[IndexedRun, ...]


def write_index(path: Path, inputs: IndexInputs) -> None:
    """Write the page to a file atomically."""
    write_whole(path, render_index(inputs))


def render_index(inputs: IndexInputs) -> str:
    """Return the page as HTML; equal inputs give equal text."""
    values = {
        "inputs": inputs,
        "script": inline_script("run_index/index.js"),
        "branches": tuple(_branches(inputs.experiments, inputs.runs)),
        "champions": sum("champion" in run.aliases for run in inputs.runs),
        "hours": sum(run.process_hours or 0.0 for run in inputs.runs),
    }
    filters: Filters = {"ablation": ablation_label, "duration": duration, "number": number}
    return render_template("run_index/index.html.j2", values, html=True, filters=filters)


def _branches(nodes: Sequence[ExperimentNode], runs: Sequence[IndexedRun]) -> Iterator[_Branch]:
    """Iterate over experiments with the nested lists that open and close after them."""
    reports: dict[str, list[IndexedRun]] = {}
    for run in runs:
        reports.setdefault(run.experiment, []).append(run)
    for place, node in enumerate(nodes):
        after = nodes[place + 1].depth if place + 1 < len(nodes) else 0
        yield _Branch(
            node=node,
            opens=after > node.depth,
            closes=max(0, node.depth - after),
            runs=tuple(reports.get(node.record.id, ())),
        )
