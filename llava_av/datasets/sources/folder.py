"""Reading of a user's folder: its conversations, and every media file that they name, checked before use."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import KeysView, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.folder_files import FolderFiles
from llava_av.datasets.media_checks import MediaChecks
from llava_av.datasets.schema import Sample
from llava_av.datasets.sources.checked_files import CheckedFiles
from llava_av.datasets.sources.file_checks import FileCheck, check_files, folder_check
from llava_av.datasets.sources.rows import CONVERSATIONS, DatasetError, Rows, find_rows
from llava_av.datasets.sources.sample_rows import row_blocks
from llava_av.media.info import MediaInfo
from llava_av.processes.progress import ProgressCallback

if TYPE_CHECKING:
    from llava_av.datasets.sources.row_table import SampleRows

__all__ = [
    "CONVERSATIONS",
    "DatasetError",
    "FolderScan",
    "NoUsableSampleError",
    "Quarantined",
    "media_names",
    "read_folder",
    "scan_rows",
]

_Use = tuple[str, str]
"""Path of a media file and its role."""


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A line or a media file that was left out."""

    file: str
    """Path of a media file as the conversations name it, or `conversations.jsonl:LINE`, or `FILE entry N`."""
    reason: str
    """Reason, on one line."""
    samples: int = 1
    """Number of samples left out because of it."""


class NoUsableSampleError(DatasetError):
    """A folder without any usable sample; `quarantined` has the reasons."""

    def __init__(self, line: str, quarantined: Sequence[Quarantined]) -> None:
        super().__init__(line)
        self.quarantined = tuple(quarantined)


@dataclass(frozen=True, kw_only=True)
class FolderScan:
    """Samples of a folder and the results of their checks."""

    rows: SampleRows
    """Usable samples in the order of the file."""
    quarantined: tuple[Quarantined, ...]
    """Unusable lines in the order of the file, then unusable media in the order of their first mention."""
    bad_samples: int
    """Lines left out; a line that names two bad files counts once, two lines that name one file twice."""
    videos_without_audio: int
    """Videos without an audio track whose audio would have been used: allowed, but worth a notice."""
    audio_durations_s: tuple[float, ...]
    """Length of each file whose audio is used, in seconds."""
    files: CheckedFiles
    """Usable media files by the path that the samples give."""

    @functools.cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Return the usable samples, parsed again."""
        return tuple(row.sample() for row in self.rows)

    @property
    def answers_outside_choices(self) -> tuple[str, ...]:
        """Return the IDs of samples whose answer is not among their choices; allowed, but reported."""
        return self.rows.outside_choices()

    @property
    def bad_share(self) -> float:
        """Share of all samples that were left out, 0 to 1."""
        return self.bad_samples / (self.bad_samples + len(self.rows))


def read_folder(
    root: Path,
    progress: ProgressCallback | None = None,
    *,
    checks: MediaChecks | None = None,
    files: FolderFiles | None = None,
) -> FolderScan:
    """Read a folder's conversations, and check every media file that they name.

    Args:
        root: Folder with `conversations.jsonl` or a JSON array (see `find_rows`); paths in it are relative
            to the folder.
        progress: Called with the number of checked files and of files to check.
        checks: Depth of the checks and results of earlier ones; None decodes every file.
        files: Files of the folder, whose results are remembered; None looks up each file.

    Raises:
        DatasetError: The folder does not exist, has no conversations, or has no usable sample.
    """
    checks = MediaChecks(FileCache()) if checks is None else checks
    known = None if files is None else files.known(checks.cache)
    check = folder_check(root, checks)
    scan = scan_rows(find_rows(root), str(root), check, progress, known=known, cache=checks.cache)
    if files is not None:
        files.remember(checks.cache, scan.files)
    return scan


def media_names(rows: Rows) -> list[str]:
    """Return the media paths that usable rows name, in the order of their first mention."""
    lines, _ = _read_rows(rows, None)
    return _names(lines)


def scan_rows(
    rows: Rows,
    folder: str,
    check: FileCheck,
    progress: ProgressCallback | None,
    *,
    known: CheckedFiles | None = None,
    cache: FileCache | None = None,
) -> FolderScan:
    """Parse rows and check every media file that they name.

    Args:
        rows: The rows.
        folder: Name of their folder for messages.
        check: Check of a media path; called in threads.
        progress: As for `read_folder`.
        known: Results of files that need no check.
        cache: Cache of checked rows.

    Raises:
        DatasetError: No sample is usable.
    """
    lines, bad_rows = _read_rows(rows, cache)
    files, failures = _check_all(_names(lines), check, known, progress)
    reasons = _reasons(lines, files, failures)
    good = _without(lines, reasons.keys())
    quarantined = bad_rows + _bad_files(rows, lines, reasons)
    _require_some(rows, folder, good, quarantined)
    with_audio = _files_with_used_audio(good, files)
    return FolderScan(
        rows=good,
        quarantined=tuple(quarantined),
        bad_samples=len(bad_rows) + len(lines) - len(good),
        videos_without_audio=sum(not info.has_audio for info in with_audio),
        audio_durations_s=tuple(info.duration_s for info in with_audio if info.has_audio),
        files=files,
    )


def _names(lines: SampleRows) -> list[str]:
    """Return the paths that rows name, in the order of their first mention."""
    names, (media, _) = lines.table.names, lines.first_places()
    return list(dict.fromkeys(chain.from_iterable(names[one] for one in media)))


def _reasons(lines: SampleRows, files: CheckedFiles, failures: Mapping[str, str]) -> dict[_Use, str]:
    """Return the reasons of uses that are not possible, in the order of their first mention."""
    found: dict[_Use, str] = {}
    for media in lines.first_places()[0]:
        for name, role in lines.table.uses(media):
            reason = failures[name] if name in failures else _unfit(role, files.info(name))
            if reason:
                found[name, role] = reason
    return found


def _without(lines: SampleRows, bad: KeysView[_Use]) -> SampleRows:
    """Return the rows that have none of some uses."""
    if not bad:
        return lines
    media = [one for one in lines.first_places()[0] if not bad.isdisjoint(lines.table.uses(one))]
    return lines.without(media)


def _bad_files(rows: Rows, lines: SampleRows, reasons: Mapping[_Use, str]) -> list[Quarantined]:
    if not reasons:
        return []
    hits: Counter[_Use] = Counter()
    first_rows: dict[_Use, int] = {}
    counts = lines.media_counts()
    for media, place in zip(*lines.first_places(), strict=True):
        for use in dict.fromkeys(lines.table.uses(media)):
            hits[use] += counts[media]
            first_rows.setdefault(use, lines.number(place))
    named = "named on line" if rows.unit == "line" else "named in entry"
    return [
        Quarantined(file=use[0], reason=f"{reason} ({named} {first_rows[use]})", samples=hits[use])
        for use, reason in reasons.items()
    ]


def _read_rows(rows: Rows, cache: FileCache | None) -> tuple[SampleRows, list[Quarantined]]:
    # numpy takes a tenth of a second to load, and an unchanged folder does not need it.
    from llava_av.datasets.sources.row_table import RowTable

    table, bad = RowTable(), {}
    for numbers, block, errors in row_blocks(rows, cache):
        table.add(numbers, block)
        bad.update({number: error.reason for number, error in errors})
    lines, repeated = table.unique()
    for row, first in repeated.items():
        reason = f"{rows.unit} {table.number(first)} has the same id {table.id(row)!r}; change one"
        bad[table.number(row)] = reason
    return lines, [Quarantined(file=rows.label(number), reason=bad[number]) for number in sorted(bad)]


def _check_all(
    names: Sequence[str],
    check: FileCheck,
    known: CheckedFiles | None,
    progress: ProgressCallback | None,
) -> tuple[CheckedFiles, dict[str, str]]:
    """Check files that are not known; return the usable ones, and the reasons why others are not."""
    files, failures = CheckedFiles() if known is None else known.of(names), {}
    others = [name for name in names if name not in files]
    for done, (name, result) in enumerate(check_files(others, check), start=len(names) - len(others) + 1):
        if isinstance(result, str):
            failures[name] = result
        else:
            files.add([name], [result.info], [result.sha256], [result.bytes], decoded=result.decoded)
        if progress is not None:
            progress(done, len(names))
    return files, failures


def _unfit(role: str, info: MediaInfo) -> str | None:
    """Return the reason why a file cannot be used in a role; None if it can."""
    if info.serves_as(role):
        return None
    if role == "audio":
        return 'has no audio track, but is named under "audio"'
    return f'is {info.contents}, but is named under "{role}"; name it under "{info.kind}"'


def _require_some(rows: Rows, folder: str, good: SampleRows, quarantined: list[Quarantined]) -> None:
    if len(good):
        return
    if not quarantined:
        raise DatasetError(f"{folder}/{rows.file} has no samples: add at least two lines")
    first = quarantined[0]
    raise NoUsableSampleError(
        f"the dataset folder {folder} has no usable sample; the first of {len(quarantined)} problems: "
        f"{first.file}: {first.reason}{rows.advice()}",
        quarantined,
    )


def _files_with_used_audio(rows: SampleRows, files: CheckedFiles) -> list[MediaInfo]:
    """Return the properties of each file whose audio is used, even if it has none."""
    table = rows.table
    names: dict[str, None] = {}
    for media in rows.first_places()[0]:
        for name, role in table.uses(media):
            if role == "audio" or (role == "video" and table.use_audio(media)):
                names[name] = None
    return list(map(files.info, names))
