"""All records together: the tree that they form with their outcomes, and a search in what they say."""

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
    """A record in the tree."""

    record: ExperimentRecord
    depth: int
    """Ancestors that it has."""
    runs: tuple[ObservedRun, ...]
    """Its runs, oldest first."""

    @property
    def state(self) -> str:
        """`met`, `missed`, `open` or `not run`: what its newest run came to."""
        return observed_state(self.runs)

    @property
    def words(self) -> str:
        """The outcome in words, such as `4 of 5 met, closed 2026-11-23`."""
        closed = f", closed {self.record.closed}" if self.record.closed else ""
        if not self.runs:
            return f"not run{closed}"
        met, missed, unmeasured = self.runs[-1].tally
        more = f", {len(self.runs)} runs" if len(self.runs) > 1 else ""
        return f"{met} of {met + missed + unmeasured} met{more}{closed}"


class SearchHit(FrozenModel):
    """A place where a record says what was looked for."""

    id: str
    section: str
    text: str
    """The paragraph or list item, on one line."""


def observed_state(runs: Sequence[ObservedRun]) -> str:
    """`met` if the newest run met everything, `missed` if it missed anything, `open` if neither is known."""
    if not runs:
        return "not run"
    met, missed, _ = runs[-1].tally
    return "missed" if missed else "met" if met else "open"


def experiment_tree(
    records: Sequence[ExperimentRecord], rows: Mapping[str, Sequence[str]]
) -> tuple[ExperimentNode, ...]:
    """The records as a tree, each before its children, children in the order of the records.

    Args:
        records: all of them, parents among them.
        rows: rows of the table of runs by id, where they are others than the record's own.
    """

    def below(parent: str | None, depth: int) -> Iterator[ExperimentNode]:
        for record in records:
            if record.parent == parent:
                observed = rows.get(record.id, record.observed)
                runs = tuple(parse_run_row(row) for row in observed)
                yield ExperimentNode(record=record, depth=depth, runs=runs)
                yield from below(record.id, depth + 1)

    return tuple(below(None, 0))


def search_records(records: Sequence[ExperimentRecord], words: Sequence[str]) -> tuple[SearchHit, ...]:
    """Paragraphs and list items that hold every word, whatever its case; lessons of each record first.

    Args:
        records: where to look.
        words: what to look for; each may be a part of a word.
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
