"""A user's own folder: its conversations and the media that they name, each file checked before use."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llava_av.datasets.schema import Sample, SampleError
from llava_av.datasets.sources.rows import CONVERSATIONS, DatasetError, Rows, find_rows
from llava_av.media.check import check_media
from llava_av.media.container import MediaError, MediaInfo
from llava_av.storage import file_sha256

__all__ = [
    "CONVERSATIONS",
    "DatasetError",
    "FolderScan",
    "NoUsableSampleError",
    "Quarantined",
    "read_folder",
]

_WORKERS = 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """Something that was left out, and why."""

    file: str
    """Path of a media file as the conversations name it, or `conversations.jsonl:LINE`, or `FILE entry N`."""
    reason: str
    """One line."""
    samples: int = 1
    """Samples left out for it."""


class NoUsableSampleError(DatasetError):
    """A folder of which nothing is left: `quarantined` says why."""

    def __init__(self, line: str, quarantined: Sequence[Quarantined]) -> None:
        super().__init__(line)
        self.quarantined = tuple(quarantined)


@dataclass(frozen=True, kw_only=True)
class FolderScan:
    """What a folder holds."""

    samples: tuple[Sample, ...]
    """Usable samples in the order of the file."""
    quarantined: tuple[Quarantined, ...]
    """Unusable lines in the order of the file, then unusable media in the order of their first mention."""
    bad_samples: int
    """Lines left out; a line that names two bad files counts once, two lines that name one file twice."""
    videos_without_audio: int
    """Videos without an audio track whose audio would have been used: fine, but worth a notice."""
    audio_durations_s: tuple[float, ...]
    """Length of each file whose sound is used, in seconds."""
    digests: Mapping[str, str]
    """SHA-256 of each usable media file by the path that the samples give."""

    @property
    def bad_share(self) -> float:
        """Share of all samples that was left out, 0 to 1."""
        return self.bad_samples / (self.bad_samples + len(self.samples))


@dataclass(frozen=True, kw_only=True)
class _Use:
    """A media file in one role, and the row that first names it."""

    name: str
    role: str
    row: int


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """A media file that was read from end to end."""

    info: MediaInfo
    sha256: str


def read_folder(root: Path, progress: Progress | None = None) -> FolderScan:
    """Reads a folder's conversations and reads every media file they name once from end to end.

    Args:
        root: Folder with `conversations.jsonl` or a JSON array (see `find_rows`); paths in it are relative
            to the folder.
        progress: called with (files checked, files to check).

    Raises:
        DatasetError: no such folder, no conversations in it, or not one usable sample.
    """
    rows = find_rows(root)
    lines, quarantined = _read_samples(rows)
    uses: dict[tuple[str, str], _Use] = {}
    for number, sample in lines:
        for name, role in _roles(sample):
            uses.setdefault((name, role), _Use(name=name, role=role, row=number))
    checked = _check_files(root, dict.fromkeys(use.name for use in uses.values()), progress)
    reasons = {key: reason for key, use in uses.items() if (reason := _unfit(use, checked[use.name]))}
    good: list[Sample] = []
    hits: dict[tuple[str, str], int] = {}
    for _, sample in lines:
        bad = [key for key in _roles(sample) if key in reasons]
        if not bad:
            good.append(sample)
        for key in dict.fromkeys(bad):
            hits[key] = hits.get(key, 0) + 1
    bad_samples = len(quarantined) + len(lines) - len(good)
    place = "on line" if rows.unit == "line" else "in entry"
    quarantined += [
        Quarantined(file=use.name, reason=f"{reasons[key]} (named {place} {use.row})", samples=hits[key])
        for key, use in uses.items()
        if key in reasons
    ]
    _require_some(root / rows.file, good, quarantined)
    heard = _heard(good, checked)
    return FolderScan(
        samples=tuple(good),
        quarantined=tuple(quarantined),
        bad_samples=bad_samples,
        videos_without_audio=sum(not info.has_audio for info in heard),
        audio_durations_s=tuple(info.duration_s for info in heard if info.has_audio),
        digests={name: found.sha256 for name, found in checked.items() if isinstance(found, _Checked)},
    )


def _read_samples(rows: Rows) -> tuple[list[tuple[int, Sample]], list[Quarantined]]:
    samples: list[tuple[int, Sample]] = []
    quarantined: list[Quarantined] = []
    first_rows: dict[str, int] = {}
    for number, row in rows.rows:
        try:
            sample = rows.parse(number, row)
            first = first_rows.setdefault(sample.id, number)
            if first != number:
                raise SampleError(number, f"the id {sample.id!r} is taken by {rows.unit} {first}")
        except SampleError as error:
            quarantined.append(Quarantined(file=rows.label(number), reason=error.reason))
        else:
            samples.append((number, sample))
    return samples, quarantined


def _roles(sample: Sample) -> list[tuple[str, str]]:
    """(file, role) of every file that a sample names."""
    return [(name, role) for role in ("image", "video", "audio") for name in getattr(sample, role)]


def _check_files(root: Path, names: Iterable[str], progress: Progress | None) -> dict[str, _Checked | str]:
    """What each file holds, or why it cannot be used. Threads do: decoders work outside Python's lock."""
    names = list(names)
    home = root.resolve()
    results: dict[str, _Checked | str] = {}
    with ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as pool:
        for name, result in zip(names, pool.map(lambda name: _check_file(home, name), names), strict=True):
            results[name] = result
            if progress is not None:
                progress(len(results), len(names))
    return results


def _check_file(home: Path, name: str) -> _Checked | str:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        return "is not a path inside the dataset's folder; give it relative to the folder, without .."
    try:
        if not (home / name).resolve().is_relative_to(home):
            return "links to a place outside the dataset's folder; copy the file into it"
        return _Checked(info=check_media(home / name), sha256=file_sha256(home / name))
    except MediaError as error:
        return error.reason
    except (OSError, RuntimeError, ValueError) as error:
        # Names no file system takes: a null byte, a loop of links.
        return f"is not a usable path: {error.args[-1] if error.args else error}"


def _unfit(use: _Use, found: _Checked | str) -> str | None:
    """Why a file cannot be used in a role, or None if it can."""
    if isinstance(found, str):
        return found
    info = found.info
    if use.role == "audio":
        return None if info.has_audio else 'has no audio track, but is named under "audio"'
    if info.kind == use.role or (info.is_animation and use.role == "image"):
        return None
    holds = {"audio": "audio without video", "image": "a still image", "video": "a video"}[info.kind]
    return f'is {holds}, but is named under "{use.role}"; name it under "{info.kind}"'


def _require_some(file: Path, good: list[Sample], quarantined: list[Quarantined]) -> None:
    if good:
        return
    if not quarantined:
        raise DatasetError(f"{file} holds no samples")
    first = quarantined[0]
    raise NoUsableSampleError(
        f"the dataset folder {file.parent} holds no usable sample; the first of {len(quarantined)} problems: "
        f"{first.file}: {first.reason}",
        quarantined,
    )


def _heard(samples: list[Sample], checked: dict[str, _Checked | str]) -> list[MediaInfo]:
    """What is known of each file whose sound is used, if it has any."""
    videos = [name for sample in samples if sample.use_audio for name in sample.video]
    names = dict.fromkeys([*videos, *(name for sample in samples for name in sample.audio)])
    return [found.info for name in names if isinstance(found := checked[name], _Checked)]
