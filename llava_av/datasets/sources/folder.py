"""Reading of a user's folder: its conversations, and every media file that they name, checked before use."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from llava_av.datasets.file_cache import FileCache, KnownFile
from llava_av.datasets.media_checks import MediaChecks
from llava_av.datasets.schema import Sample, SampleError
from llava_av.datasets.sources.rows import CONVERSATIONS, DatasetError, Rows, find_rows
from llava_av.datasets.sources.sample_checks import answers_outside_choices
from llava_av.media.info import MediaError, MediaInfo, UnreadableError, require_bytes
from llava_av.processes.progress import ProgressCallback

__all__ = [
    "CONVERSATIONS",
    "CheckedFile",
    "DatasetError",
    "FileCheck",
    "FolderScan",
    "NoUsableSampleError",
    "Quarantined",
    "check_files",
    "folder_check",
    "media_names",
    "outside",
    "read_folder",
    "scan_rows",
]

_WORKERS = 4
# A task of a pool costs as much as the check of a file that is known.
_AT_ONCE = 8


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

    samples: tuple[Sample, ...]
    """Usable samples in the order of the file."""
    quarantined: tuple[Quarantined, ...]
    """Unusable lines in the order of the file, then unusable media in the order of their first mention."""
    bad_samples: int
    """Lines left out; a line that names two bad files counts once, two lines that name one file twice."""
    videos_without_audio: int
    """Videos without an audio track whose audio would have been used: allowed, but worth a notice."""
    answers_outside_choices: tuple[str, ...]
    """IDs of samples whose answer is not among their choices; allowed, but reported."""
    audio_durations_s: tuple[float, ...]
    """Length of each file whose audio is used, in seconds."""
    digests: Mapping[str, str]
    """SHA-256 of each usable media file by the path that the samples give."""
    media: Mapping[str, MediaInfo]
    """Properties of the same files by the same paths."""
    pending: frozenset[str]
    """Digests of those that were not decoded."""

    @property
    def facts(self) -> dict[str, MediaInfo]:
        """Return the properties of the usable media files by the digest of their content."""
        return {self.digests[path]: info for path, info in self.media.items()}

    @property
    def bad_share(self) -> float:
        """Share of all samples that were left out, 0 to 1."""
        return self.bad_samples / (self.bad_samples + len(self.samples))


@dataclass(frozen=True, kw_only=True)
class _Use:
    """A media file in one role, with the first row that names it."""

    name: str
    role: str
    row: int


@dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """A usable media file."""

    info: MediaInfo
    sha256: str
    decoded: bool
    """False if only its headers were checked."""


FileCheck = Callable[[str], CheckedFile | str]
"""Function that returns the result for a media path, or the reason why it cannot be used."""


def read_folder(
    root: Path, progress: ProgressCallback | None = None, *, checks: MediaChecks | None = None
) -> FolderScan:
    """Read a folder's conversations, and check every media file that they name.

    Args:
        root: Folder with `conversations.jsonl` or a JSON array (see `find_rows`); paths in it are relative
            to the folder.
        progress: Called with the number of checked files and of files to check.
        checks: Depth of the checks and results of earlier ones; None decodes every file.

    Raises:
        DatasetError: The folder does not exist, has no conversations, or has no usable sample.
    """
    check = folder_check(root, MediaChecks(FileCache()) if checks is None else checks)
    return scan_rows(find_rows(root), str(root), check, progress)


def folder_check(root: Path, checks: MediaChecks) -> FileCheck:
    """Return the function that checks a media file of a folder."""
    return partial(_check_file, _Home(root), checks)


def media_names(rows: Rows) -> list[str]:
    """Return the media paths that usable rows name, in the order of their first mention."""
    lines, _ = _read_samples(rows)
    return list(dict.fromkeys(name for _, sample in lines for name in sample.media))


def scan_rows(
    rows: Rows,
    folder: str,
    check: FileCheck,
    progress: ProgressCallback | None,
) -> FolderScan:
    """Parse rows and check every media file that they name.

    Args:
        rows: The rows.
        folder: Name of their folder for messages.
        check: Check of a media path; called in threads.
        progress: As for `read_folder`.

    Raises:
        DatasetError: No sample is usable.
    """
    lines, bad_rows = _read_samples(rows)
    uses = _first_uses(lines)
    names = list(dict.fromkeys(use.name for use in uses))
    checked = _check_all(names, check, progress)
    reasons = {(use.name, use.role): reason for use in uses if (reason := _unfit(use, checked[use.name]))}
    good = [sample for _, sample in lines if reasons.keys().isdisjoint(_roles(sample))]
    quarantined = bad_rows + _bad_files(rows, lines, uses, reasons)
    _require_some(rows, folder, good, quarantined)
    with_audio = _files_with_used_audio(good, checked)
    usable = {name: found for name, found in checked.items() if isinstance(found, CheckedFile)}
    return FolderScan(
        samples=tuple(good),
        quarantined=tuple(quarantined),
        bad_samples=len(bad_rows) + len(lines) - len(good),
        videos_without_audio=sum(not info.has_audio for info in with_audio),
        answers_outside_choices=answers_outside_choices(good),
        audio_durations_s=tuple(info.duration_s for info in with_audio if info.has_audio),
        digests={name: found.sha256 for name, found in usable.items()},
        media={name: found.info for name, found in usable.items()},
        pending=frozenset(found.sha256 for found in usable.values() if not found.decoded),
    )


def _first_uses(lines: Sequence[tuple[int, Sample]]) -> list[_Use]:
    """Return each media file in each role, in the order of the first mention."""
    uses: dict[tuple[str, str], _Use] = {}
    for number, sample in lines:
        for name, role in _roles(sample):
            uses.setdefault((name, role), _Use(name=name, role=role, row=number))
    return list(uses.values())


def _bad_files(
    rows: Rows,
    lines: Sequence[tuple[int, Sample]],
    uses: Sequence[_Use],
    reasons: Mapping[tuple[str, str], str],
) -> list[Quarantined]:
    hits = Counter(key for _, sample in lines for key in dict.fromkeys(_roles(sample)) if key in reasons)
    named = "named on line" if rows.unit == "line" else "named in entry"
    return [
        Quarantined(file=use.name, reason=f"{reasons[key]} ({named} {use.row})", samples=hits[key])
        for use in uses
        if (key := (use.name, use.role)) in reasons
    ]


def _read_samples(rows: Rows) -> tuple[list[tuple[int, Sample]], list[Quarantined]]:
    samples: list[tuple[int, Sample]] = []
    quarantined: list[Quarantined] = []
    first_rows: dict[str, int] = {}
    for number, row in rows.rows:
        try:
            sample = rows.parse(number, row)
            first = first_rows.setdefault(sample.id, number)
            if first != number:
                raise SampleError(number, f"{rows.unit} {first} has the same id {sample.id!r}; change one")
        except SampleError as error:
            quarantined.append(Quarantined(file=rows.label(number), reason=error.reason))
        else:
            samples.append((number, sample))
    return samples, quarantined


def _roles(sample: Sample) -> list[tuple[str, str]]:
    """Return path and role of every file that a sample names."""
    return [(name, role) for role in ("image", "video", "audio") for name in getattr(sample, role)]


def _check_all(
    names: Sequence[str], check: FileCheck, progress: ProgressCallback | None
) -> dict[str, CheckedFile | str]:
    """Check files; return the result or the reason of each."""
    results: dict[str, CheckedFile | str] = {}
    for name, result in check_files(names, check):
        results[name] = result
        if progress is not None:
            progress(len(results), len(names))
    return results


def check_files(names: Sequence[str], check: FileCheck) -> Iterator[tuple[str, CheckedFile | str]]:
    """Check files; yield each path with its result, in order. Threads suffice: decoders release the GIL."""
    parts = [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]
    with ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as pool:
        for part, results in zip(parts, pool.map(lambda part: list(map(check, part)), parts), strict=True):
            yield from zip(part, results, strict=True)


def outside(name: str) -> str | None:
    """Return the reason if a media path does not stay inside its folder."""
    if ".." not in name and not name.startswith("/"):
        return None
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        return "is not a path inside the dataset's folder; give it relative to the folder, without .."
    return None


class _Home:
    """Folder of a dataset; remembers which folders in it lead outside through links."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._inside: dict[str, bool] = {}

    def holds(self, path: Path) -> bool:
        """Check whether a path in the folder leads to a file in it."""
        parent = str(path.parent)
        if parent not in self._inside:
            self._inside[parent] = path.parent.resolve().is_relative_to(self.root)
        return self._inside[parent] and (not os.path.islink(path) or path.resolve().is_relative_to(self.root))


def _check_file(home: _Home, checks: MediaChecks, name: str) -> CheckedFile | str:
    if reason := outside(name):
        return reason
    path = home.root / name
    try:
        if not home.holds(path):
            return "links to a file outside the dataset's folder; copy the file into it"
        known = _identify(path, checks.cache)
        found = checks.check(path, known)
        return CheckedFile(info=found.info, sha256=known.sha256, decoded=found.decoded)
    except MediaError as error:
        return error.reason
    except (OSError, RuntimeError, ValueError) as error:
        # Paths that no file system accepts: a null byte, a loop of links.
        return f"is not a usable path: {error.args[-1] if error.args else error}"


def _identify(path: Path, cache: FileCache) -> KnownFile:
    try:
        require_bytes(path)
        return cache.identify(path)
    except OSError as error:
        raise UnreadableError(path, f"cannot be read: {error.strerror or error}") from None


def _unfit(use: _Use, found: CheckedFile | str) -> str | None:
    """Return the reason why a file cannot be used in a role; None if it can."""
    if isinstance(found, str):
        return found
    info = found.info
    if use.role == "audio":
        return None if info.has_audio else 'has no audio track, but is named under "audio"'
    if info.kind == use.role or (info.is_animation and use.role == "image"):
        return None
    holds = {"audio": "audio without video", "image": "a still image", "video": "a video"}[info.kind]
    return f'is {holds}, but is named under "{use.role}"; name it under "{info.kind}"'


def _require_some(rows: Rows, folder: str, good: list[Sample], quarantined: list[Quarantined]) -> None:
    if good:
        return
    if not quarantined:
        raise DatasetError(f"{folder}/{rows.file} has no samples: add at least two lines")
    first = quarantined[0]
    raise NoUsableSampleError(
        f"the dataset folder {folder} has no usable sample; the first of {len(quarantined)} problems: "
        f"{first.file}: {first.reason}{rows.advice()}",
        quarantined,
    )


def _files_with_used_audio(samples: list[Sample], checked: dict[str, CheckedFile | str]) -> list[MediaInfo]:
    """Return the properties of each file whose audio is used, even if it has none."""
    videos = [name for sample in samples if sample.use_audio for name in sample.video]
    names = dict.fromkeys([*videos, *(name for sample in samples for name in sample.audio)])
    return [found.info for name in names if isinstance(found := checked[name], CheckedFile)]
