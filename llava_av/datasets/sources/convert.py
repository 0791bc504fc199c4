"""Conversion of other tools' files to `conversations.jsonl`.

Tables, chat messages, query and response, and ShareGPT become lines beside the user's media. Parquet files
and WebDataset tars also contain media, which are extracted: the result is a new folder, which appears whole
or not at all. All other keys are copied, and each line is checked as in a dataset's folder. Rows of Parquet
files and tars are converted one by one, and only their IDs stay in memory. All rows are read even if one of
them cannot be converted; then nothing is written, and the error names all such rows.
"""

import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from llava_av.datasets.schema import Sample, SampleError, parse_row
from llava_av.datasets.sources.extracted_media import ExtractedMedia
from llava_av.datasets.sources.parquet import is_parquet, parquet_rows
from llava_av.datasets.sources.rows import CONVERSATIONS, DatasetError, read_rows
from llava_av.datasets.sources.tables import table_rows
from llava_av.datasets.sources.turns import Unreadable, has_system_prompt, line_of
from llava_av.datasets.sources.webdataset import is_webdataset, webdataset_rows
from llava_av.files import is_new_folder, whole_file
from llava_av.parsing import unique_object
from llava_av.plurals import count_of

__all__ = ["BadRowsError", "Converted", "convert_file"]

_MOST_REASONS = 20
_Rows: TypeAlias = Iterable[tuple[str, Mapping[str, object] | DatasetError]]
_Archive: TypeAlias = Callable[[Path, ExtractedMedia], _Rows]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Result of a conversion."""

    samples: int
    """Lines written."""
    system_prompts: int
    """Samples whose system prompt was prepended to the next question."""
    media_files: int = 0
    """Media files extracted."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Number of ignored members of tars by their endings."""


class BadRowsError(DatasetError):
    """Several rows that cannot be converted."""

    def __init__(self, source: Path, reasons: Sequence[str], bad: int, rows: int) -> None:
        """Keep the reasons of the first rows.

        Args:
            source: File or folder with the rows.
            reasons: Name and reason of each of the first of them.
            bad: Number of all of them.
            rows: Number of rows of the source.
        """
        super().__init__(f"{source}: {bad} of {count_of(rows, 'row')} cannot be converted: fix them")
        self.reasons, self.left = tuple(reasons), bad - len(reasons)


def convert_file(source: Path, target: Path) -> Converted:
    """Write the samples of a file, or of a folder of Parquet files or tars, as `conversations.jsonl`.

    Args:
        source: `.csv`, `.tsv`, `.json` or `.jsonl` file; `.parquet` or `.tar` file, or a folder of them.
        target: File to write; it must not exist, and paths of media are relative to its folder. For Parquet
            files and tars, the folder is new or empty and gets the media.

    Raises:
        BadRowsError: Several rows cannot be converted.
        DatasetError: The source cannot be read, a row cannot be converted, or the target exists.
    """
    if target.is_dir():
        raise DatasetError(f"{target} is a folder: name a new file, such as {target / CONVERSATIONS}")
    if target.exists():
        raise DatasetError(f"{target} exists: name another file, or delete it")
    if not source.exists():
        raise DatasetError(f"{source} cannot be read: it does not exist")
    archive = _archive(source)
    if archive is None:
        return _converted(_rows(source), source, target)
    with _new_folder(target.parent) as folder:
        media = ExtractedMedia(folder)
        done = _converted(archive(source, media), source, folder / target.name)
        media.close()
    return Converted(
        samples=done.samples,
        system_prompts=done.system_prompts,
        media_files=media.files,
        ignored=dict(media.ignored),
    )


def _archive(source: Path) -> _Archive | None:
    """Return the reader of a source that contains media."""
    found = [
        read
        for is_kind, read in ((is_parquet, parquet_rows), (is_webdataset, webdataset_rows))
        if is_kind(source)
    ]
    if len(found) > 1:
        raise DatasetError(
            f"{source} has both Parquet files and tars: name one file, or a folder of one kind"
        )
    if source.is_dir() and not found:
        raise DatasetError(f"{source} has no .parquet and no .tar files: name a file or another folder")
    return found[0] if found else None


def _converted(rows: _Rows, source: Path, target: Path) -> Converted:
    taken: set[str] = set()
    prompts, bad, reasons = 0, 0, list[str]()
    try:
        with whole_file(target) as part, part.open("w", encoding="utf-8", newline="") as file:
            for label, row in rows:
                try:
                    if isinstance(row, DatasetError):
                        raise row
                    sample = _sample(label, row, taken)
                except DatasetError as error:
                    bad += 1
                    reasons += [str(error)] if bad <= _MOST_REASONS else []
                    continue
                taken.add(sample.id)
                file.write(f"{sample.to_json_line()}\n")
                prompts += has_system_prompt(row)
            _require_good(source, reasons, bad, len(taken))
    except OSError as error:
        raise DatasetError(
            f"{target} cannot be written: {error.strerror or error}; choose another folder"
        ) from None
    return Converted(samples=len(taken), system_prompts=prompts)


def _require_good(source: Path, reasons: Sequence[str], bad: int, good: int) -> None:
    if bad > 1:
        raise BadRowsError(source, reasons, bad, bad + good)
    if bad:
        raise DatasetError(reasons[0])
    if not good:
        raise DatasetError(f"{source} has no rows: name a file with at least one")


def _sample(label: str, row: Mapping[str, object], taken: Collection[str]) -> Sample:
    try:
        sample = parse_row(_with_id(line_of(row), taken), 1)
    except (Unreadable, SampleError) as error:
        raise DatasetError(f"{label}: {getattr(error, 'reason', error)}") from None
    if sample.id in taken:
        raise DatasetError(f"{label}: another row has the same id {sample.id!r}; change one")
    return sample


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when the block ends, and is deleted if it raises."""
    home = folder.absolute()
    if not is_new_folder(home):
        example = home / "new" / CONVERSATIONS
        raise DatasetError(f"{folder} is not a new folder for the media: name a file such as {example}")
    part = home.with_name(f".{home.name}.{uuid.uuid4().hex}.partial")
    try:
        part.mkdir(parents=True)
        yield part
        part.replace(home)
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be written: {error.strerror or error}; choose another folder"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _rows(source: Path) -> Iterator[tuple[str, Mapping[str, object] | DatasetError]]:
    if source.suffix.lower() in (".csv", ".tsv"):
        yield from table_rows(source)
    elif source.suffix.lower() in (".json", ".jsonl"):
        for number, row in read_rows(source).rows:
            yield (label := f"{source} row {number}"), _mapping(label, row)
    else:
        raise DatasetError(
            f"{source}: only .csv, .tsv, .json, .jsonl, .parquet and .tar files can be converted"
        )


def _mapping(label: str, row: Any) -> Mapping[str, object] | DatasetError:
    try:
        value = row if not isinstance(row, bytes) else _parsed(row)
    except (ValueError, RecursionError) as error:
        return DatasetError(f"{label} is not valid JSON: {error}")
    return value if isinstance(value, Mapping) else DatasetError(f"{label} is not a JSON object")


def _parsed(line: bytes) -> Any:
    return json.loads(line.decode("utf-8"), object_pairs_hook=unique_object)


def _with_id(line: dict[str, object], taken: Collection[str]) -> dict[str, object]:
    """Add an ID to a line without one: a hash of its content, which other rows do not change."""
    if line.get("id") is not None:
        return line
    content = json.dumps(line, sort_keys=True, ensure_ascii=False)
    name = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return {**line, "id": next(one for one in names if one not in taken)}
