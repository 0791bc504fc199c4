"""Rows of tables: CSV and TSV files with commas, semicolons or tabs between their cells."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from llava_av.datasets.sources.rows import DatasetError

__all__ = ["table_rows"]

_LISTS = ("image", "images", "video", "videos", "audio", "audios", "choices")
_SEPARATOR = ";"


def table_rows(source: Path) -> Iterator[tuple[str, Mapping[str, object] | DatasetError]]:
    """Yield the rows of a table by lower-case column names, without empty cells.

    Yields:
        Name of the row for messages, and the row, or the reason why it cannot be used.

    Raises:
        DatasetError: The file cannot be read, is not UTF-8, or is not a table.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{source} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{source} is not UTF-8 text: {error}; save it as UTF-8") from None
    for number, cells in enumerate(_cells(source, text), start=1):
        label = f"{source} row {number}"
        if None in cells:
            yield label, DatasetError(f"{label} has more cells than the first row: {cells}"[:300])
            continue
        row = {name.strip().lower(): cell for name, cell in cells.items() if cell}
        yield label, {name: _parts(cell) if name in _LISTS else cell for name, cell in row.items()}


def _parts(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(_SEPARATOR)]


def _cells(source: Path, text: str) -> Iterator[dict[str, str]]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    # A cell may be as long as the file, which is in memory anyway.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = Counter(name.strip().lower() for name in table.fieldnames or () if name.strip())
        for name, times in names.items():
            if times > 1:
                raise DatasetError(f"{source} has {times} columns {name!r}: keep one, or rename the others")
        yield from table
    except csv.Error as error:
        raise DatasetError(f"{source} is not a valid table: {error}") from None
