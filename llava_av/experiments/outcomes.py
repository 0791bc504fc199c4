"""Results of a run, written next to the expectations of its experiment record."""

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_av.experiments.locked_files import locked, replace_whole
from llava_av.experiments.records import (
    OBSERVED_BEGIN,
    OBSERVED_END,
    OBSERVED_HEADING,
    ExperimentError,
    ExperimentRecord,
    observed_rows,
    parse_record,
    read_record,
)
from llava_av.frozen import FrozenModel
from llava_av.registry.baselines import Baseline
from llava_av.registry.expectations import check_all
from llava_av.runs import Change, EvaluationResult, Over, RunOutcome

__all__ = [
    "TABLE_HEAD",
    "ObservedRun",
    "make_outcome",
    "outcome_row",
    "parse_run_row",
    "with_block",
    "with_rows",
    "write_outcome",
]

TABLE_HEAD = (
    "| Run | Date | Seed | Dataset | Code | Expected and observed |",
    "| --- | --- | --- | --- | --- | --- |",
)
"""Head of the table of runs."""
_SHORT = 12
_EARLIER_HEADING = re.compile(r"^## Seen(?=[ \t]*$)", re.MULTILINE)
_VERDICT = re.compile(r"(?:, (met|missed)(?: by \S+)?|: not measured(?: \(.*\))?)$")


class ObservedRun(FrozenModel):
    """A row of a record's table of runs."""

    run: str
    date: str
    results: tuple[tuple[str, bool | None], ...]
    """Each statement with its observed value, and whether it was met; None if it was not measured."""

    @property
    def tally(self) -> tuple[int, int, int]:
        """Numbers of statements that were met, missed and not measured."""
        verdicts = [met for _, met in self.results]
        return verdicts.count(True), verdicts.count(False), verdicts.count(None)


def outcome_row(outcome: RunOutcome) -> str:
    """Return the row of a run in the table, in Markdown."""
    commit = f"`{outcome.git_commit[:_SHORT]}`" if outcome.git_commit else "no commit"
    lacked = f"the record was incomplete: {'; '.join(outcome.incomplete)}" if outcome.incomplete else ""
    observed = [_cell_text(text) for text in (lacked, outcome.note) if text]
    observed += [_cell_text(check.outcome) for check in outcome.checks]
    cells = (
        f"`{outcome.run}`",
        outcome.date.isoformat(),
        str(outcome.seed),
        f"`{outcome.dataset_commit[:_SHORT]}`",
        f"{commit} + patch" if outcome.git_dirty else commit,
        "<br>".join(observed),
    )
    return f"| {' | '.join(cells)} |"


def parse_run_row(row: str) -> ObservedRun:
    """Parse a row of the table of runs."""
    cells = [cell.strip() for cell in row.strip().strip("|").split(" | ")]
    statements = [text for text in cells[-1].split("<br>") if _VERDICT.search(text)]
    return ObservedRun(
        run=cells[0].strip("` "), date=cells[1], results=tuple((text, _verdict(text)) for text in statements)
    )


def _verdict(text: str) -> bool | None:
    found = _VERDICT.search(text)
    return None if found is None or found[1] is None else found[1] == "met"


def make_outcome(
    record: ExperimentRecord,
    evaluation: EvaluationResult,
    *,
    run: str,
    date: datetime.date,
    seed: int,
    dataset_commit: str,
    git_commit: str | None,
    git_dirty: bool = False,
    note: str = "",
    recipe: str = "",
    changes: Sequence[Change] = (),
    incomplete: Sequence[str] = (),
    baselines: Mapping[Over, Baseline] | None = None,
) -> RunOutcome:
    """Check every expectation of the record against evaluation.json.

    Args:
        record: Experiment record.
        evaluation: Contents of evaluation.json.
        run: Run ID.
        date: Date of the run.
        seed: Seed of the recipe.
        dataset_commit: ID of the dataset commit.
        git_commit: Commit of the code, if it has one.
        git_dirty: True if the code differed from the commit.
        note: Note for readers.
        recipe: Name of the recipe that was trained.
        changes: Differences from the parent's run.
        incomplete: Parts that the record lacked when the run was opened.
        baselines: Results of `parent` and `champion`, as far as they exist.
    """
    return RunOutcome(
        run=run,
        date=date,
        seed=seed,
        dataset_commit=dataset_commit,
        git_commit=git_commit,
        git_dirty=git_dirty,
        checks=check_all(record.expected, evaluation, baselines),
        recipe=recipe,
        changes=tuple(changes),
        incomplete=tuple(incomplete),
        note=note,
    )


def write_outcome(source: Path, target: Path, outcome: RunOutcome) -> ExperimentRecord:
    """Write a record with the outcome in its table of runs.

    The table has one row per run: the row of a known run is updated in place, unless only the date differs.
    The file is replaced atomically, and only if something changes; writers of one folder wait for each other.

    Args:
        source: Record that people write.
        target: File to write: `source` itself, or a copy, which keeps its own rows and gets the prose of
            `source`.
        outcome: Results of the run.

    Returns:
        The record as written.

    Raises:
        ExperimentError: `source` or an existing `target` is not a valid record, or `target` cannot be
            written.
    """
    read_record(source, draft=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent):
            text = source.read_text(encoding="utf-8-sig")
            before = target.read_text(encoding="utf-8-sig") if target.exists() else None
            rows = observed_rows(text if before is None else before, source if before is None else target)
            after = with_rows(text, _updated(rows, outcome))
            if after != before:
                replace_whole(target.resolve(), after)
    except OSError as error:
        raise ExperimentError(f"experiment record {target}: cannot be written: {error.strerror}") from None
    return parse_record(after, target, draft=True)


def _updated(rows: Sequence[str], outcome: RunOutcome) -> list[str]:
    row = outcome_row(outcome)
    mine = [index for index, old in enumerate(rows) if old.startswith(f"| `{outcome.run}` |")]
    if not mine:
        return [*rows, row]
    kept = [old for index, old in enumerate(rows) if index not in mine[1:]]
    if _without_date(kept[mine[0]]) != _without_date(row):
        kept[mine[0]] = row
    return kept


def _without_date(row: str) -> list[str]:
    run, _, *rest = row.strip("| ").split(" | ")
    return [run, *rest]


def with_rows(text: str, rows: Sequence[str]) -> str:
    """Return the text of a record with these rows as its table of runs, below the current heading."""
    text = _EARLIER_HEADING.sub(f"## {OBSERVED_HEADING}", text)
    return with_block(text, OBSERVED_HEADING, (OBSERVED_BEGIN, OBSERVED_END), [*TABLE_HEAD, *rows])


def with_block(text: str, heading: str, marks: tuple[str, str], lines: Sequence[str]) -> str:
    """Return the text with lines between two markers in a section, which is added if it is missing."""
    begin, end = marks
    block = "\n".join([begin, *lines, end])
    if begin in text:
        head, _, rest = text.partition(begin)
        return head + block + rest.partition(end)[2]
    title = re.search(rf"^## {heading}[ \t]*$", text, re.MULTILINE)
    if title is None:
        return f"{text.rstrip()}\n\n## {heading}\n\n{block}\n"
    return f"{text[: title.end()]}\n\n{block}{text[title.end() :]}"


def _cell_text(text: str) -> str:
    """Return text without characters that would end its cell or row."""
    return re.sub(r"\s+", " ", text.replace("|", "/")).strip()
