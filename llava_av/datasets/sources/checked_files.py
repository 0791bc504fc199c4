"""Usable media files of a folder as columns, because a folder may have millions.

Each file takes about 150 bytes of memory besides its path; equal properties are one object.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

from llava_av.datasets.digest_index import DigestIndex
from llava_av.datasets.sources.file_checks import CheckedFile
from llava_av.media.info import MediaInfo

__all__ = ["CheckedFiles"]

_Value = TypeVar("_Value")


class CheckedFiles(Mapping[str, CheckedFile]):
    """Results of the checks of usable media files by path."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._digests = DigestIndex()
        self._sizes, self._infos, self._decoded = array("q"), array("i"), bytearray()
        self._numbers: dict[MediaInfo, int] = {}
        self._distinct: list[MediaInfo] = []

    def add(
        self,
        names: Sequence[str],
        infos: Sequence[MediaInfo],
        digests: Sequence[str],
        sizes: Sequence[int],
        *,
        decoded: bool,
    ) -> None:
        """Add files with new paths, all of which were decoded or all of which were not.

        Raises:
            TypeError: A size is not a number.
            ValueError: The columns have different lengths, or a digest has another form.
        """
        if not len(names) == len(infos) == len(digests) == len(sizes):
            raise ValueError("the columns have different lengths")
        checked_sizes = array("q", sizes)
        self._digests.add(digests)
        self._sizes += checked_sizes
        self._infos.extend(map(self._number, infos))
        self._decoded += bytes([decoded]) * len(names)
        self._places.update(zip(names, range(len(self._places), len(self._sizes)), strict=True))

    def _number(self, info: MediaInfo) -> int:
        number = self._numbers.setdefault(info, len(self._distinct))
        if number == len(self._distinct):
            self._distinct.append(info)
        return number

    def of(self, names: Iterable[str]) -> "CheckedFiles":
        """Return those of some files that are here."""
        found = CheckedFiles()
        known = [name for name in names if name in self._places]
        places = [self._places[name] for name in known]
        found._places = dict(zip(known, range(len(known)), strict=True))
        found._digests = self._digests.take(places)
        found._sizes.extend([self._sizes[place] for place in places])
        found._infos.extend([self._infos[place] for place in places])
        found._decoded.extend([self._decoded[place] for place in places])
        found._numbers, found._distinct = dict(self._numbers), list(self._distinct)
        return found

    def __getitem__(self, name: str) -> CheckedFile:
        place = self._places[name]
        return CheckedFile(
            info=self._distinct[self._infos[place]],
            sha256=self._digests[place],
            bytes=self._sizes[place],
            decoded=bool(self._decoded[place]),
        )

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def info(self, name: str) -> MediaInfo:
        """Return the properties of a file."""
        return self._distinct[self._infos[self._places[name]]]

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of each file by its path."""
        return _Values(self, lambda name: self._digests[self._places[name]])

    @property
    def facts(self) -> Mapping[str, MediaInfo]:
        """Properties of the files by the digest of their content."""
        return _Values(self._digests, self._info_of_content)

    @property
    def pending(self) -> AbstractSet[str]:
        """Digests of files that were not decoded."""
        return _Pending(self._digests, self._decoded)

    def _info_of_content(self, sha256: str) -> MediaInfo:
        places = self._digests.places(sha256)
        if not places:
            raise KeyError(sha256)
        return self._distinct[self._infos[places[-1]]]


class _Values(Mapping[str, _Value]):
    """Values that are computed when they are read, by keys of which some may be repeated."""

    def __init__(self, keys: Iterable[str], value: Callable[[str], _Value]) -> None:
        self._keys, self._value = keys, value

    def __getitem__(self, key: str) -> _Value:
        return self._value(key)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self._keys))

    def __len__(self) -> int:
        return len(set(self._keys))


class _Pending(AbstractSet[str]):
    """Digests of the files that were not decoded."""

    def __init__(self, digests: DigestIndex, decoded: bytearray) -> None:
        self._digests, self._decoded = digests, decoded

    @classmethod
    def _from_iterable(cls, digests: Iterable[str]) -> frozenset[str]:  # type: ignore[override]
        return frozenset(digests)

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, str) and not all(
            self._decoded[place] for place in self._digests.places(sha256)
        )

    def __iter__(self) -> Iterator[str]:
        return iter({self._digests[place] for place, decoded in enumerate(self._decoded) if not decoded})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return 0 in self._decoded
