"""Usable media files of a folder as columns, because a folder may have millions.

Each file takes about 30 bytes of memory. Paths, digests and properties are in temporary files.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache, partial
from itertools import compress
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from llava_av.datasets.digest_index import DigestIndex
from llava_av.datasets.sources.file_checks import CheckedFile
from llava_av.datasets.sources.name_table import NameTable
from llava_av.datasets.sources.spilled_texts import SpilledTexts
from llava_av.media.info import MediaInfo

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CheckedFiles", "info_text"]

_Value = TypeVar("_Value")
_ABSENT, _UNWANTED = -1, -2
_FIELDS = tuple(MediaInfo.__dataclass_fields__)
_RECENT = 16_384


class CheckedFiles(Mapping[str, CheckedFile]):
    """Results of the checks of usable media files by path.

    Args:
        names: Paths of files.
        wanted: Numbers of the paths whose results are kept.
    """

    def __init__(self, names: NameTable, wanted: npt.NDArray[np.integer]) -> None:
        self.names = names
        # The last place is that of paths that are not in the table.
        self._places = np.full(len(names) + 1, _UNWANTED, np.int32)
        self._places[wanted] = _ABSENT
        self._digests = DigestIndex()
        self._sizes, self._infos, self._decoded = array("q"), array("i"), bytearray()
        # Only recent properties are looked up, so equal properties may have several numbers.
        self._info_texts, self._recent = SpilledTexts(), dict[str, int]()
        # Not a method: a cache that refers to this object would keep its files open until a collection.
        self.info_at = lru_cache(_RECENT)(partial(_read_info, self._info_texts))
        """Returns the properties with a number."""

    def put(self, number: int, file: CheckedFile) -> None:
        """Add the result for the path with a number, which has none."""
        self._digests.add([file.sha256])
        self._places[number] = len(self._sizes)
        self._sizes.append(file.bytes)
        self._infos.append(self._number(info_text(file.info)))
        self._decoded.append(file.decoded)

    def add_decoded(
        self,
        names: Sequence[str],
        infos: Sequence[str],
        digests: Sequence[str],
        sizes: Sequence[int],
    ) -> None:
        """Add the results for those of some paths that are wanted and have none; the files were decoded.

        Args:
            names: The paths.
            infos: Properties of each file, as `info_text` returns them.
            digests: Digests of their contents.
            sizes: Sizes of their contents.

        Raises:
            TypeError: A size is not a number.
            ValueError: The columns have different lengths, or properties or a digest have another form.
        """
        columns = (names, infos, digests, sizes)
        if len(set(map(len, columns))) > 1:
            raise ValueError("the columns have different lengths")
        numbers = self.names.numbers(names)
        chosen = self._places[numbers] == _ABSENT
        if not chosen.all():
            infos, digests = list(compress(infos, chosen)), list(compress(digests, chosen))
            sizes = list(compress(sizes, chosen))
        checked_sizes, first = array("q", sizes), len(self._sizes)
        info_numbers = list(map(self._number, infos))
        self._digests.add_all(digests)
        self._sizes += checked_sizes
        self._infos.extend(info_numbers)
        self._decoded += b"\1" * len(digests)
        self._places[numbers[chosen]] = np.arange(first, len(self._sizes))

    def _number(self, info: str) -> int:
        number = self._recent.get(info)
        if number is None:
            _parse_info(info)
            if len(self._recent) == _RECENT:
                self._recent.clear()
            number = self._recent[info] = len(self._info_texts)
            self._info_texts.append([info])
        return number

    def find(self, names: Sequence[str]) -> list[CheckedFile | None]:
        """Return the results for some paths; None for a path without one."""
        places = self._places[self.names.numbers(names)]
        return [self._at(place) if place >= 0 else None for place in places.tolist()]

    def _at(self, place: int) -> CheckedFile:
        return CheckedFile(
            info=self.info_at(self._infos[place]),
            sha256=self._digests[place],
            bytes=self._sizes[place],
            decoded=bool(self._decoded[place]),
        )

    def __getitem__(self, name: str) -> CheckedFile:
        if (found := self.find([name])[0]) is None:
            raise KeyError(name)
        return found

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find([name])[0] is not None

    def __iter__(self) -> Iterator[str]:
        return map(self.names.__getitem__, np.flatnonzero(self._places >= 0).tolist())

    def __len__(self) -> int:
        return len(self._sizes)

    def have_results(self, numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Return for each number of a path whether the file has a result."""
        found: npt.NDArray[np.bool_] = self._places[numbers] >= 0
        return found

    def info(self, number: int) -> MediaInfo:
        """Return the properties of a file by the number of its path."""
        return self.info_at(self._infos[int(self._places[number])])

    def info_numbers(self, numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """Return the numbers, for `info_at`, of the properties of some files."""
        found: npt.NDArray[np.int32] = np.frombuffer(self._infos, np.int32)[self._places[numbers]]
        return found

    def contents(
        self, numbers: npt.NDArray[np.integer]
    ) -> tuple[npt.NDArray[np.int32], Callable[[npt.NDArray[np.integer]], list[str]]]:
        """Return the rank of each file's digest among the distinct ones, and the digests by rank."""
        ranks, firsts = self._digests.ranks()

        def digests(wanted: npt.NDArray[np.integer]) -> list[str]:
            places = firsts[wanted]
            order = np.argsort(places)
            found = dict(zip(order.tolist(), self._digests.at(places[order]), strict=True))
            return [found[number] for number in range(len(places))]

        return ranks[self._places[numbers]], digests

    def columns(self, numbers: npt.NDArray[np.integer]) -> tuple[list[str], list[str], list[int]]:
        """Return path, digest and size of some files by the numbers of their paths."""
        places = self._places[numbers]
        sizes = np.frombuffer(self._sizes, np.int64)[places].tolist()
        return self.names.texts(numbers), self._digests.at(places), sizes

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
        return self.info_at(self._infos[places[-1]])


def info_text(info: MediaInfo) -> str:
    """Return the properties of a file as a text, which is faster to parse and to look up than its values."""
    return json.dumps(list(vars(info).values()))


def _parse_info(text: str) -> MediaInfo:
    return MediaInfo(**dict(zip(_FIELDS, json.loads(text), strict=True)))


def _read_info(texts: SpilledTexts, number: int) -> MediaInfo:
    return _parse_info(texts.read(np.array([number]))[0].decode())


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
