"""Overview of all records: their tree with outcomes, and a full-text search."""

import re
from collections.abc import Iterator, Mapping, Sequence

from llava_av.experiments.outcomes import ObservedRun, parse_run_row
from llava_av.experiments.records import ExperimentRecord
from llava_av.frozen import FrozenModel

__all__ = ["ExperimentNode", "SearchHit", "experiment_tree", "observed_state", "search_records"]

_PROSE = {
    "Title": "title",
    "Hypothesis": "hypothesis",
    "Rationale": "rationale",
    "Next steps": "next_steps",
    "Lessons": "lessons",
}


class ExperimentNode(FrozenModel):
    """A record in the tree of experiments."""

    record: ExperimentRecord
    depth: int
    """Number of its ancestors."""
    runs: tuple[ObservedRun, ...]
    """Runs of the experiment, oldest first."""

    @property
    def state(self) -> str:
        """State by its newest run: `met`, `missed`, `open` or `not run`."""
        return observed_state(self.runs)

    @property
    def words(self) -> str:
        """Outcome in words, such as `4 of 5 met, closed 2026-11-23`."""
        closed = f", closed {self.record.closed}" if self.record.closed else ""
        if not self.runs:
            return f"not run{closed}"
        met, missed, unmeasured = self.runs[-1].tally
        more = f", {len(self.runs)} runs" if len(self.runs) > 1 else ""
        return f"{met} of {met + missed + unmeasured} met{more}{closed}"


class SearchHit(FrozenModel):
    """A paragraph of a record that matches a search."""

    id: str
    section: str
    text: str
    """Paragraph or list item, on one line."""


def observed_state(runs: Sequence[ObservedRun]) -> str:
    """Return `met` if the newest run met everything, `missed` if it missed anything, else `open`."""
    if not runs:
        return "not run"
    met, missed, _ = runs[-1].tally
    return "missed" if missed else "met" if met else "open"


def experiment_tree(
    records: Sequence[ExperimentRecord], rows: Mapping[str, Sequence[str]]
) -> tuple[ExperimentNode, ...]:
    """Return the records as a tree, each before its children, which keep the order of the records.

    Args:
        records: The records; one whose parent is not among them is the root of a tree.
        rows: Rows of the table of runs by ID, if they differ from the record's own.
    """
    ids = {record.id for record in records}

    def below(parent: str | None, depth: int) -> Iterator[ExperimentNode]:
        for record in records:
            if (record.parent if record.parent in ids else None) == parent:
                observed = rows.get(record.id, record.observed)
                runs = tuple(parse_run_row(row) for row in observed)
                yield ExperimentNode(record=record, depth=depth, runs=runs)
                yield from below(record.id, depth + 1)

    return tuple(below(None, 0))


def search_records(records: Sequence[ExperimentRecord], words: Sequence[str]) -> tuple[SearchHit, ...]:
    """Return paragraphs and list items that contain all words, in any case; lessons come first.

    Args:
        records: Records to search.
        words: Search terms; each may be part of a word.
    """
    wanted = [word.casefold() for word in words]
    found = []
    for record in records:
        for section in ("Lessons", *(name for name in _PROSE if name != "Lessons")):
            for text in _paragraphs(getattr(record, _PROSE[section])):
                if all(word in text.casefold() for word in wanted):
                    found.append(SearchHit(id=record.id, section=section, text=text))
    return tuple(found)


def _paragraphs(text: str) -> list[str]:
    parts = re.split(r"\n\s*\n|\n(?=[-*] )", text)
    return [" ".join(part.split()) for part in parts if part.strip()]
