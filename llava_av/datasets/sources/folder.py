"""Reading of a user's folder: its conversations, and every media file that they name, checked before use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.folder_files import FolderFiles
from llava_av.datasets.media_checks import MediaChecks
from llava_av.datasets.schema import Sample
from llava_av.datasets.sources.file_checks import FileCheck, check_files, folder_check
from llava_av.datasets.sources.rows import CONVERSATIONS, DatasetError, Rows, find_rows
from llava_av.datasets.sources.sample_rows import ROLES, row_blocks
from llava_av.media.info import MediaInfo
from llava_av.processes.progress import ProgressCallback

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llava_av.datasets.sources.checked_files import CheckedFiles
    from llava_av.datasets.sources.row_table import SampleRows, Uses

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
    known = None if files is None else functools.partial(files.add_known, checks.cache)
    check = folder_check(root, checks)
    scan = scan_rows(find_rows(root), str(root), check, progress, known=known, cache=checks.cache)
    if files is not None:
        files.remember(checks.cache, scan.files)
    return scan


def media_names(rows: Rows) -> Iterator[str]:
    """Yield the media paths that usable rows name, each once."""
    lines, _ = _read_rows(rows, None)
    return lines.table.names.each(_names(lines))


def scan_rows(
    rows: Rows,
    folder: str,
    check: FileCheck,
    progress: ProgressCallback | None,
    *,
    known: Callable[[CheckedFiles], None] | None = None,
    cache: FileCache | None = None,
) -> FolderScan:
    """Parse rows and check every media file that they name.

    Args:
        rows: The rows.
        folder: Name of their folder for messages.
        check: Check of a media path.
        progress: As for `read_folder`.
        known: Function that adds the results of unchanged files, which need no check; None to check all.
        cache: Cache of checked rows.

    Raises:
        DatasetError: No sample is usable.
    """
    lines, bad_rows = _read_rows(rows, cache)
    files, failures = _check_all(lines, check, known, progress)
    good, bad_files = _without_bad_uses(rows, lines, files, failures)
    quarantined = bad_rows + bad_files
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


def _names(lines: SampleRows) -> npt.NDArray[np.int32]:
    """Return the numbers of the paths that rows name, each once."""
    import numpy as np

    is_named = np.zeros(len(lines.table.names), np.bool_)
    is_named[lines.uses().names] = True
    return np.flatnonzero(is_named).astype(np.int32)


def _without_bad_uses(
    rows: Rows, lines: SampleRows, files: CheckedFiles, failures: Mapping[int, str]
) -> tuple[SampleRows, list[Quarantined]]:
    """Return the rows whose files can all be used, and the other files in the order of their mention."""
    import numpy as np

    uses = lines.uses()
    bad = np.flatnonzero(_are_bad(uses, files))
    found: dict[tuple[int, int], list[int]] = {}
    for row, name, role in dict.fromkeys(zip(*(column[bad].tolist() for column in uses), strict=True)):
        found.setdefault((name, role), []).append(row)
    named = "named on line" if rows.unit == "line" else "named in entry"
    quarantined = []
    for (name, role), own in found.items():
        reason = failures.get(name) or _unfit(ROLES[role], files.info(name))
        label = f"{reason} ({named} {lines.number(own[0])})"
        quarantined.append(Quarantined(file=files.names[name], reason=label, samples=len(own)))
    is_good = np.ones(len(lines), np.bool_)
    is_good[uses.rows[bad]] = False
    return lines.where(is_good), quarantined


def _are_bad(uses: Uses, files: CheckedFiles) -> npt.NDArray[np.bool_]:
    """Check for each use whether its file is unusable, or cannot be used in its role."""
    import numpy as np

    usable = files.have_results(uses.names)
    pairs = files.info_numbers(uses.names[usable]) * len(ROLES) + uses.roles[usable]
    is_unfit = np.zeros(pairs.max(initial=-1) + 1, np.bool_)
    is_used = is_unfit.copy()
    is_used[pairs] = True
    for pair in np.flatnonzero(is_used).tolist():
        info, role = divmod(pair, len(ROLES))
        is_unfit[pair] = _unfit(ROLES[role], files.info_at(info)) is not None
    found: npt.NDArray[np.bool_] = ~usable
    found[usable] = is_unfit[pairs]
    return found


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
    lines: SampleRows,
    check: FileCheck,
    known: Callable[[CheckedFiles], None] | None,
    progress: ProgressCallback | None,
) -> tuple[CheckedFiles, dict[int, str]]:
    """Check files that are not known; return the usable ones, and the reasons of the others by number."""
    from llava_av.datasets.sources.checked_files import CheckedFiles

    names, numbers = lines.table.names, _names(lines)
    files, failures = CheckedFiles(names, numbers), dict[int, str]()
    if known is not None:
        known(files)
    others = numbers[~files.have_results(numbers)]
    results = check_files(names.each(others), check)
    for done, (number, (_, result)) in enumerate(zip(others, results, strict=True), start=1):
        if isinstance(result, str):
            failures[int(number)] = result
        else:
            files.put(int(number), result)
        if progress is not None:
            progress(len(numbers) - len(others) + done, len(numbers))
    return files, failures


def _unfit(role: str, info: MediaInfo) -> str | None:
    """Return the reason why a file cannot be used in a role; None if it can."""
    if info.serves_as(role):
        return None
    if role == "audio":
        return 'has no audio track, but is named under "audio"'
    return f'is {info.description}, but is named under "{role}"; name it under "{info.kind}"'


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
    import numpy as np

    uses = rows.uses()
    is_used = uses.roles == ROLES.index("audio")
    is_used |= (uses.roles == ROLES.index("video")) & rows.use_audio[uses.rows]
    names, firsts = np.unique(uses.names[is_used], return_index=True)
    return list(map(files.info, names[np.argsort(firsts)].tolist()))
