"""Table of the usable rows of a folder, whose text is not kept in memory.

Each row takes about 50 bytes of memory as columns. IDs and the canonical lines, which a commit stores, are in
temporary files if they are large, and are read again range by range.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from operator import eq
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, overload

import numpy as np

from llava_av.datasets.manifest import SampleRange
from llava_av.datasets.ranges import Listing, SampleLine, sample_range
from llava_av.datasets.sources.name_table import NameTable
from llava_av.datasets.sources.sample_rows import ROLES, RowBlock, SampleRow
from llava_av.datasets.sources.spilled_texts import SpilledTexts, sorted_numbers
from llava_av.datasets.spilled import SpilledBytes, adjacent_runs
from llava_av.datasets.split import SIDES

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["RowTable", "SampleRows", "Uses"]

_SIDE_NUMBERS = {side: number for number, side in enumerate(SIDES)}

_Integers: TypeAlias = "npt.NDArray[np.int32]"


class Uses(NamedTuple):
    """Files that rows name, in the order of the rows."""

    rows: npt.NDArray[np.int32]
    """Place, among the rows, of the row that names each file."""
    names: npt.NDArray[np.int32]
    """Numbers of the paths."""
    roles: npt.NDArray[np.int8]
    """Places of the roles in `ROLES`."""


class RowTable:
    """Rows that are added block by block, and are then read through `SampleRows`."""

    def __init__(self) -> None:
        self._ids, self._lines = SpilledTexts(), SpilledBytes()
        self.names = NameTable()
        """Paths that the rows name."""
        self._kind_numbers: dict[str, int] = {}
        self._numbers, self._ends = array("i"), array("q")
        self._kinds = array("i")
        self._splits, self._outside, self._starts = array("b"), array("q"), array("q")
        self._use_audio, self._use_roles = array("b"), array("b")
        self._use_names, self._use_ends = array("i"), array("i", [0])

    def add(self, numbers: Iterable[int], block: RowBlock) -> None:
        """Add the rows of a block, with the number of each row in its file."""
        first = len(self._ids)
        self._ids.append(block.ids)
        self._numbers.extend(numbers)
        self._use_audio.extend(block.use_audio)
        self._use_names.extend(self.names.add(block.names))
        self._use_roles.extend(block.roles)
        self._use_ends.extend(list(accumulate(block.uses, initial=self._use_ends[-1]))[1:])
        kinds = self._kind_numbers
        self._kinds.extend([kinds.setdefault(one, len(kinds)) for one in block.kinds])
        self._splits.extend(map(_SIDE_NUMBERS.__getitem__, block.splits))
        self._outside.extend([first + place for place in block.outside])
        self._starts.extend([first + place for place in block.starts])
        ends = np.flatnonzero(np.frombuffer(block.text, np.uint8) == ord("\n")) + (self._lines.size + 1)
        self._ends.frombytes(ends.astype(np.int64).tobytes())
        self._lines.append(block.text)

    def __len__(self) -> int:
        return len(self._ids)

    @cached_property
    def splits(self) -> npt.NDArray[np.int8]:
        """Split that each row states: 0 for none, 1 for train, 2 for held_out."""
        return np.frombuffer(self._splits, np.int8)

    @cached_property
    def _first_names(self) -> npt.NDArray[np.int32]:
        """Return for each use the number of its path, equal for equal paths."""
        names = np.frombuffer(self._use_names, np.int32)
        names[:] = self.names.firsts()[names]
        return names

    def uses(self, rows: _Integers) -> Uses:
        """Return the files that some rows name."""
        ends = np.frombuffer(self._use_ends, np.int32)
        starts, counts = ends[rows], ends[rows + 1] - ends[rows]
        firsts = np.cumsum(counts, dtype=np.int32) - counts
        own = np.repeat(starts - firsts, counts) + np.arange(counts.sum(), dtype=np.int32)
        return Uses(
            rows=np.repeat(np.arange(len(rows), dtype=np.int32), counts),
            names=self._first_names[own],
            roles=np.frombuffer(self._use_roles, np.int8)[own],
        )

    @cached_property
    def use_audio(self) -> npt.NDArray[np.bool_]:
        """Return for each row whether the audio of its videos is used."""
        return np.frombuffer(self._use_audio, np.bool_)

    @cached_property
    def _by_id(self) -> tuple[_Integers, npt.NDArray[np.bool_]]:
        """Rows in the order of their IDs, equal IDs in the order of the rows; False if an ID is repeated."""
        return sorted_numbers(len(self), self._ids.read)

    def unique(self) -> tuple[SampleRows, dict[int, int]]:
        """Return the first row with each ID, and for each other row the first one with its ID."""
        rows, is_new = self._by_id
        repeated: dict[int, int] = {}
        for place in np.flatnonzero(~is_new).tolist():
            before = int(rows[place - 1])
            repeated[int(rows[place])] = repeated.get(before, before)
        return SampleRows(self, np.sort(rows[is_new])), repeated

    def id(self, row: int) -> str:
        """Return the ID of a row."""
        return self._ids.read(np.array([row]))[0].decode()

    def ids(self, rows: _Integers) -> Iterator[str]:
        """Return an iterator over the IDs of some rows, few of which are read at a time."""
        return self._ids.each(rows)

    def number(self, row: int) -> int:
        """Return the number of a row in its file."""
        return self._numbers[row]

    def row(self, row: int) -> SampleRow:
        """Return a row."""
        uses = range(self._use_ends[row], self._use_ends[row + 1])
        return SampleRow(
            id=self.id(row),
            kind=self._kind_names[self._kinds[row]],
            text=self._content(np.array([row]))[:-1],
            split=SIDES[self._splits[row]],
            uses=tuple((self.names[self._use_names[use]], ROLES[self._use_roles[use]]) for use in uses),
            use_audio=bool(self.use_audio[row]),
            names_choice=row not in self._rows_outside,
        )

    @cached_property
    def _rows_outside(self) -> frozenset[int]:
        return frozenset(self._outside)

    @cached_property
    def _kind_names(self) -> list[str]:
        return list(self._kind_numbers)

    def outside(self, rows: _Integers) -> list[int]:
        """Return those of some rows whose last answer contains none of the choices."""
        return [row for row in rows.tolist() if row in self._rows_outside] if self._outside else []

    def listing(self, chosen: _Integers) -> Listing[SampleRange, SampleLine]:
        """Return the listing of some rows, sorted by ID; its content is read range by range."""
        is_chosen, starts = np.zeros(len(self), np.bool_), np.zeros(len(self), np.bool_)
        is_chosen[chosen] = True
        starts[np.frombuffer(self._starts, np.int64)] = True
        by_id, _ = self._by_id
        order = by_id[is_chosen[by_id]]
        cuts = np.flatnonzero(starts[order])
        parts = np.split(order, cuts[cuts > 0]) if len(order) else []
        ranges = tuple(map(self._range, parts))
        by_first = {one.first: rows for one, rows in zip(ranges, parts, strict=True)}
        return Listing(
            ranges=ranges,
            load=lambda one: self._sample_lines(by_first[one.first]),
            content=lambda one: self._content(by_first[one.first]),
        )

    def _range(self, rows: _Integers) -> SampleRange:
        counts = np.bincount(np.frombuffer(self._kinds, np.int32)[rows])
        kinds = {self._kind_names[kind]: int(counts[kind]) for kind in np.flatnonzero(counts).tolist()}
        return sample_range(self.id(int(rows[0])), len(rows), kinds, self._content(rows))

    def _sample_lines(self, rows: _Integers) -> list[SampleLine]:
        lines = self._content(rows).split(b"\n")
        kinds, names = self._kinds, self._kind_names
        return [
            SampleLine(own.decode(), names[kinds[row]], line)
            for own, row, line in zip(self._ids.read(rows), rows.tolist(), lines, strict=False)
        ]

    def _content(self, rows: _Integers) -> bytes:
        """Return the lines of some rows; adjacent ones are read at once."""
        ends = np.frombuffer(self._ends, np.int64)
        firsts, lasts = adjacent_runs(rows)
        starts = np.where(firsts > 0, ends[firsts - 1], 0)
        # Joining a list of the lines would need twice the memory.
        content = io.BytesIO()
        content.writelines(map(self._lines.read, starts.tolist(), ends[lasts].tolist()))
        return content.getvalue()


class SampleRows(Sequence[SampleRow]):
    """Some rows of a table, in the order of the file.

    Args:
        table: The table, to which no more rows are added.
        places: Places of the rows in the table.
    """

    def __init__(self, table: RowTable, places: _Integers) -> None:
        self.table, self.places = table, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> SampleRow: ...

    @overload
    def __getitem__(self, place: slice) -> SampleRows: ...

    def __getitem__(self, place: int | slice) -> SampleRow | SampleRows:
        if isinstance(place, slice):
            return SampleRows(self.table, self.places[place])
        return self.table.row(int(self.places[place]))

    def __iter__(self) -> Iterator[SampleRow]:
        return map(self.table.row, self.places.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SampleRows) and len(self) == len(other) and all(map(eq, self, other))

    def where(self, chosen: npt.NDArray[np.bool_]) -> SampleRows:
        """Return the rows for which `chosen` is True."""
        return SampleRows(self.table, self.places[chosen])

    def uses(self) -> Uses:
        """Return the files that the rows name."""
        return self.table.uses(self.places)

    @property
    def use_audio(self) -> npt.NDArray[np.bool_]:
        """Return for each row whether the audio of its videos is used."""
        return self.table.use_audio[self.places]

    @property
    def splits(self) -> npt.NDArray[np.int8]:
        """Split that each row states, as `RowTable.splits`."""
        return self.table.splits[self.places]

    def id(self, place: int) -> str:
        """Return the ID of a row."""
        return self.table.id(int(self.places[place]))

    def ids(self, places: _Integers) -> Iterator[str]:
        """Return an iterator over the IDs of some rows, few of which are read at a time."""
        return self.table.ids(self.places[places])

    def number(self, place: int) -> int:
        """Return the number of a row in its file."""
        return self.table.number(int(self.places[place]))

    def outside_choices(self) -> tuple[str, ...]:
        """Return the IDs of rows whose last answer contains none of the choices."""
        return tuple(map(self.table.id, self.table.outside(self.places)))

    def listing(self) -> Listing[SampleRange, SampleLine]:
        """Return the listing of the rows, sorted by ID; its content is read range by range."""
        return self.table.listing(self.places)
