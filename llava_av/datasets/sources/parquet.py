"""Rows of Parquet files as Hugging Face writes them, with media inside them or beside them.

A media file is a mapping of `bytes` and `path`, as Hugging Face's Image, Audio and Video features store it,
or the bytes alone, or a path relative to the folder of the source. It may be within lists and messages.
"""

import datetime
import decimal
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_av.datasets.sources.extracted_media import ExtractedMedia
from llava_av.datasets.sources.line_keys import media_kind
from llava_av.datasets.sources.rows import DatasetError, damage, source_files

__all__ = ["is_parquet", "parquet_rows"]

_ENDINGS = (".parquet",)
# Rows with media are large, and only a batch is in memory.
_BATCH_ROWS = 8
_BUFFER_BYTES = 1 << 20
_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)


def is_parquet(source: Path) -> bool:
    """Check whether a source is a Parquet file or a folder with some."""
    return bool(source_files(source, _ENDINGS))


def parquet_rows(
    source: Path, media: ExtractedMedia
) -> Iterator[tuple[str, Mapping[str, object] | DatasetError]]:
    """Yield the rows of a Parquet file, or of all in a folder, with the paths of their media.

    Args:
        source: File or folder.
        media: Receives the media.

    Yields:
        Name of the row for messages, and the row, or the reason why it cannot be used.

    Raises:
        DatasetError: A file is damaged or is not a Parquet file, or pyarrow is not installed.
    """
    root = source if source.is_dir() else source.parent
    for file in source_files(source, _ENDINGS):
        for number, row in enumerate(_file_rows(file), start=1):
            label = f"{file} row {number}"
            reader = _MediaReader(root, media, label)
            try:
                yield label, {name: reader.read(value, name, name) for name, value in row.items()}
            except DatasetError as error:
                yield label, error


def _file_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DatasetError(
            f"{file} cannot be read without pyarrow: install it with `pip install 'llava-av[local]'`"
        ) from None
    number = 0
    with (
        _failures(file, lambda: number),
        ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as opened,
    ):
        names = opened.schema_arrow.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DatasetError(f"{file} has several columns {twice!r}: rename all but one")
        for batch in opened.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield row


@contextmanager
def _failures(file: Path, number: Callable[[], int]) -> Iterator[None]:
    """Name the file and the last row that was read in the errors of pyarrow."""
    try:
        yield
    except (OSError, ValueError, ArithmeticError, NotImplementedError, MemoryError) as error:
        raise DatasetError(
            f"{file} is damaged or not a Parquet file (after row {number()}: {damage(error)}): copy it again"
        ) from None


class _MediaReader:
    """Replaces the media in the values of one row by their paths, and removes nulls."""

    def __init__(self, root: Path, media: ExtractedMedia, label: str) -> None:
        self._root, self._media, self._label = root, media, label

    def read(self, value: Any, key: str, column: str) -> Any:
        """Return a value for JSON.

        Args:
            value: Value in the row.
            key: Nearest key above the value, which states whether a text is a path.
            column: Column of the value.
        """
        if isinstance(value, Mapping):
            if value.keys() <= {"bytes", "path"} and value:
                return self._file(value.get("bytes"), value.get("path"), column)
            return {name: self.read(part, name, column) for name, part in value.items() if part is not None}
        if isinstance(value, list):
            return [self.read(part, key, column) for part in value if part is not None]
        if isinstance(value, bytes):
            return self._file(value, None, column) if media_kind(key) else None
        if isinstance(value, str) and media_kind(key) and "://" not in value:
            return self._file(None, value, column)
        return str(value) if isinstance(value, _AS_TEXT) else value

    def _file(self, content: bytes | None, path: str | None, column: str) -> str | None:
        if content is not None:
            if not media_kind(column) and column not in ("messages", "conversations"):
                raise DatasetError(
                    f"{self._label}: the column {column!r} contains files: rename it to image, video or audio"
                )
            return self._media.place(self._media.hold(io.BytesIO(content)), path or "")
        return None if path is None else self._media.refer(self._root, path, self._label)
