"""What a run saw, written beside what its experiment record expected."""

import datetime
import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llava_av.experiments.records import (
    SEEN_BEGIN,
    SEEN_END,
    ExperimentError,
    ExperimentRecord,
    parse_record,
    read_record,
    seen_rows,
)
from llava_av.registry.expectations import Check

__all__ = ["Outcome", "make_outcome", "write_outcome"]

_HEAD = (
    "| Run | Date | Seed | Dataset | Code | Expected: seen |",
    "| --- | --- | --- | --- | --- | --- |",
)
_SHORT = 12


class Outcome(BaseModel):
    """What one run saw."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    run: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Run key."""
    date: datetime.date
    seed: int
    dataset_commit: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    git_commit: str | None = Field(pattern=r"^[0-9a-f]+$")
    """None outside a checkout."""
    git_dirty: bool
    """Whether the code differed from the commit."""
    checks: tuple[Check, ...]
    """Each expectation of the record beside what was seen."""
    note: str = ""
    """What a reader must know, such as that the run was a plumbing check."""

    def row(self) -> str:
        """The run as a row of the table, in Markdown."""
        commit = f"`{self.git_commit[:_SHORT]}`" if self.git_commit else "no commit"
        seen = [_cell_text(self.note)] if self.note else []
        seen += [check.outcome for check in self.checks]
        cells = (
            f"`{self.run}`",
            self.date.isoformat(),
            str(self.seed),
            f"`{self.dataset_commit[:_SHORT]}`",
            f"{commit} + patch" if self.git_dirty else commit,
            "<br>".join(seen),
        )
        return f"| {' | '.join(cells)} |"


def make_outcome(
    record: ExperimentRecord,
    evaluation: Mapping[str, Any],
    *,
    run: str,
    date: datetime.date,
    seed: int,
    dataset_commit: str,
    git_commit: str | None,
    git_dirty: bool = False,
    note: str = "",
) -> Outcome:
    """Checks every expectation of the record against evaluation.json.

    Args:
        record: the experiment record.
        evaluation: evaluation.json.
        run: run key.
        date: day of the run.
        seed: the recipe's seed.
        dataset_commit: id of the dataset commit.
        git_commit: commit of the code, if it has one.
        git_dirty: whether the code differed from the commit.
        note: what a reader must know beside.
    """
    return Outcome(
        run=run,
        date=date,
        seed=seed,
        dataset_commit=dataset_commit,
        git_commit=git_commit,
        git_dirty=git_dirty,
        checks=tuple(expectation.check(evaluation) for expectation in record.expected),
        note=note,
    )


def write_outcome(source: Path, target: Path, outcome: Outcome) -> ExperimentRecord:
    """Writes a record with the outcome in its table of runs.

    The table keeps one row a run: a run that is there already is updated in place, and left as it is if
    nothing but the date differs. The file is replaced whole, and not at all if nothing changes; writers of
    one folder wait for each other.

    Args:
        source: the record that people write.
        target: the file to write: `source` itself, or a copy, whose own rows are kept and whose prose becomes
            that of `source`.
        outcome: what the run saw.

    Returns:
        The record as written.

    Raises:
        ExperimentError: `source` or an existing `target` is no whole record, or `target` cannot be written.
    """
    read_record(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            text = source.read_text(encoding="utf-8-sig")
            before = target.read_text(encoding="utf-8-sig") if target.exists() else None
            rows = seen_rows(text if before is None else before, source if before is None else target)
            after = _with_rows(text, _updated(rows, outcome))
            if after != before:
                _replace_whole(target.resolve(), after)
    except OSError as error:
        raise ExperimentError(f"experiment record {target}: cannot be written: {error.strerror}") from None
    return parse_record(after, target)


def _updated(rows: Sequence[str], outcome: Outcome) -> list[str]:
    row = outcome.row()
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


def _with_rows(text: str, rows: Sequence[str]) -> str:
    block = "\n".join([SEEN_BEGIN, *_HEAD, *rows, SEEN_END])
    if SEEN_BEGIN not in text:
        return f"{text.rstrip()}\n\n## Seen\n\n{block}\n"
    head, _, rest = text.partition(SEEN_BEGIN)
    return head + block + rest.partition(SEEN_END)[2]


def _cell_text(text: str) -> str:
    """Text that ends neither its cell nor its row."""
    return re.sub(r"\s+", " ", text.replace("|", "/")).strip()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer of the folder at a time; the lock goes with its process and leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace_whole(path: Path, text: str) -> None:
    # a fixed name, as only the holder of the lock writes it: what a killed writer leaves is overwritten
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    if path.exists():
        part.chmod(path.stat().st_mode & 0o777)
    part.replace(path)
