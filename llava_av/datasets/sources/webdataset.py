"""Samples of WebDataset tars: members with the same name up to the first dot are one sample.

`KEY.json` has the sample in any form that `turns` reads, and the members with media belong to it. They are
matched with the paths that the sample states, first by ending, then by modality; if it states none of a
modality, they are its media in the order of the tar. Tars are read from start to end without seeking.
"""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from llava_av.datasets.manifest import safe_path
from llava_av.datasets.sources.extracted_media import ExtractedMedia, HeldFile
from llava_av.datasets.sources.line_keys import media_kind
from llava_av.datasets.sources.rows import DatasetError, damage, source_files
from llava_av.parsing import unique_object

__all__ = ["is_media_ending", "is_webdataset", "webdataset_rows"]

_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_KINDS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"), "image"),
    **dict.fromkeys(("avif", "heic", "heif", "jp2", "image"), "image"),
    **dict.fromkeys(("mp4", "m4v", "mov", "mkv", "webm", "avi", "wmv", "flv", "mpg", "mpeg"), "video"),
    **dict.fromkeys(("ts", "3gp", "ogv", "video"), "video"),
    **dict.fromkeys(("wav", "mp3", "flac", "ogg", "oga", "opus", "m4a", "aac", "aif", "aiff"), "audio"),
    **dict.fromkeys(("wma", "caf", "audio"), "audio"),
}
_MAX_JSON_BYTES = 16 << 20
_END_BYTES, _PIECE_BYTES = 2 * tarfile.BLOCKSIZE, 1 << 20
_OPENERS: Mapping[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZ": bz2.BZ2File,
    b"\xfd7": lzma.LZMAFile,
}
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A media file in a tar."""

    name: str
    suffix: str
    file: HeldFile

    @property
    def kind(self) -> str:
        return _KINDS[self.suffix]


class _Stream(io.BufferedIOBase):
    """Content of a tar, read once; knows its last bytes.

    A tar that is cut between two members reads without an error, but lacks the zeros of its end.
    """

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self._last = b""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes."""
        data = self._file.read(-1 if size is None else size)
        self._last = (self._last + data)[-_END_BYTES:]
        return data

    def require_end(self) -> None:
        """Read the rest and require that the tar is complete.

        Raises:
            TarError: It does not end with zeros.
        """
        while self.read(_PIECE_BYTES):
            pass
        if len(self._last) < _END_BYTES or any(self._last):
            raise tarfile.ReadError("its end is missing")


@dataclass
class _Group:
    """Members of one sample."""

    key: str
    names: set[str] = field(default_factory=set)
    row: dict[str, Any] | None = None
    problem: DatasetError | None = None
    """First member that cannot be used."""
    media: list[_Member] = field(default_factory=list)


def is_media_ending(suffix: str) -> bool:
    """Check whether members with an ending, without its dot, are media."""
    return suffix in _KINDS


def is_webdataset(source: Path) -> bool:
    """Check whether a source is a tar or a folder with some."""
    return bool(source_files(source, _ENDINGS))


def webdataset_rows(
    source: Path, media: ExtractedMedia
) -> Iterator[tuple[str, Mapping[str, object] | DatasetError]]:
    """Yield the samples of a tar, or of all in a folder, with the paths of their media.

    Args:
        source: File or folder.
        media: Receives the media.

    Yields:
        Name of the sample for messages, and its row, or the reason why it cannot be used.

    Raises:
        DatasetError: A tar is damaged, or has a member that could leave the folder.
    """
    root = source if source.is_dir() else source.parent
    shards = source_files(source, _ENDINGS)
    for shard in shards:
        for group in _groups(shard, media):
            label = f"{shard} sample {group.key}"
            # Keys may be equal in different shards.
            prefix = f"{_stem(shard.relative_to(root).as_posix())}/" if len(shards) > 1 else ""
            try:
                row = _with_media(group, media, label)
            except DatasetError as error:
                yield label, error
            else:
                yield label, {"id": f"{prefix}{group.key}", **row}


def _stem(path: str) -> str:
    ending = next(one for one in sorted(_ENDINGS, key=len, reverse=True) if path.lower().endswith(one))
    return path[: -len(ending)]


def _groups(shard: Path, media: ExtractedMedia) -> Iterator[_Group]:
    """Yield the samples of a tar in order."""
    group: _Group | None = None
    last = "its start"
    try:
        with _opened(shard) as file, _Stream(file) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                # Otherwise the headers of all members stay in memory.
                tar.members = []  # type: ignore[attr-defined]
                name = _safe_name(shard, member)
                head, _, base = name.rpartition("/")
                stem, _, ending = base.partition(".")
                if member.isdir() or not stem:
                    continue
                key = f"{head}/{stem}" if head else stem
                if group is None or group.key != key:
                    if group is not None:
                        yield group
                    group = _Group(key)
                try:
                    _add(shard, tar, member, name, ending, group, media)
                except DatasetError as error:
                    group.problem = group.problem or error
                last = name
            stream.require_end()
    except _DAMAGE as error:
        raise DatasetError(
            f"{shard} is damaged or not a tar (after {last}: {damage(error)}): copy it again"
        ) from None
    if group is not None:
        yield group


def _opened(shard: Path) -> io.BufferedIOBase:
    with shard.open("rb") as file:
        start = file.read(2)
    return _OPENERS[start](shard) if start in _OPENERS else shard.open("rb")


def _safe_name(shard: Path, member: tarfile.TarInfo) -> str:
    if not (member.isfile() or member.isdir()):
        raise DatasetError(f"{shard} member {member.name!r} is a link or a device: use files only")
    try:
        name = member.name.removeprefix("./")
        return safe_path(name) if member.isfile() else name
    except ValueError:
        raise DatasetError(
            f"{shard} member {member.name!r} does not stay inside its folder: use relative names without .."
        ) from None


def _add(
    shard: Path,
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    name: str,
    ending: str,
    group: _Group,
    media: ExtractedMedia,
) -> None:
    if name in group.names:
        raise DatasetError(f"{shard} has the member {name} twice: keep one")
    group.names.add(name)
    suffix = ending.rpartition(".")[2].lower()
    content = tar.extractfile(member)
    if content is None or (ending.lower() != "json" and suffix not in _KINDS):
        media.ignored[f".{suffix}"] += 1
    elif ending.lower() == "json":
        if member.size > _MAX_JSON_BYTES:
            raise DatasetError(f"{shard} member {name} has {member.size} bytes, more than {_MAX_JSON_BYTES}")
        group.row = _json(shard, name, content.read())
    else:
        group.media.append(_Member(name=name, suffix=suffix, file=media.hold(content)))


def _json(shard: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=unique_object)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{shard} member {name} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{shard} member {name} is not a JSON object")
    return value


def _with_media(group: _Group, media: ExtractedMedia, label: str) -> dict[str, Any]:
    """Return the row of a sample with the paths of its members."""
    row = group.row
    if group.problem is not None:
        raise group.problem
    if row is None:
        raise DatasetError(f"{label} has no {group.key}.json: add its conversations")
    stated = {path: kind for key, value in row.items() if (kind := media_kind(key)) for path in _paths(value)}
    free = dict(stated)
    placed: dict[str, str] = {}
    added: dict[str, list[str]] = {}
    for member in group.media:
        path = _match(member, free)
        if path is not None:
            del free[path]
            placed[path] = media.place(member.file, path)
        elif member.kind in stated.values():
            raise DatasetError(f"{label} has the member {member.name}, which its JSON does not name: add it")
        else:
            added.setdefault(member.kind, []).append(media.place(member.file, member.name))
    named = {
        key: [placed.get(path, path) for path in _paths(value)] if media_kind(key) else value
        for key, value in row.items()
    }
    return {**named, **added}


def _paths(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [path for path in values if isinstance(path, str)]


def _match(member: _Member, free: Mapping[str, str]) -> str | None:
    """Return the stated path that a member has the content of."""
    by_ending = (path for path in free if PurePosixPath(path).suffix.lower() == f".{member.suffix}")
    by_kind = (path for path, kind in free.items() if kind == member.kind)
    return next(by_ending, None) or next(by_kind, None)
