"""Split of a user's dataset into a training set and a held-out set.

Samples that share a media file, directly or through other samples, form a group that stays on one side: a
clip that was trained on says nothing about new clips. Files are identified by content, so copies and links of
a clip count as that clip. A hash of the group's smallest content digest (of the sample's ID without media)
decides the side, so a sample keeps its side when samples about other media are added or removed. Two things
take precedence over the hash: the key `split` of a sample, and the wanted share of held-out samples, which
groups of several samples can miss by far.

Samples are columns here and groups are numbers, so a sample takes a few bytes of memory.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from llava_av.datasets.schema import Split
from llava_av.errors import UserError

__all__ = [
    "SIDES",
    "Split",
    "SplitColumns",
    "SplitError",
    "held_out_samples",
    "split_samples",
]

# Deviation from the wanted number of held-out samples, as a share of the smaller side, above which groups of
# several samples change sides.
_TOLERANCE = 0.5
_ALLOW = "commit with `llava-av data commit --allow-shared-media` to hold out single samples anyway"
_TRAIN, _HELD_OUT = 1, 2
_READ_AT_ONCE = 8192
SIDES: tuple[Split | None, ...] = (None, "train", "held_out")
"""Split that each number of `SplitColumns.sides` stands for."""

_Integers = npt.NDArray[np.int64]
_Booleans = npt.NDArray[np.bool_]


class _Sample(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def split(self) -> Split | None: ...
    @property
    def media(self) -> tuple[str, ...]: ...


_AnySample = TypeVar("_AnySample", bound=_Sample)


class SplitError(UserError):
    """A dataset that cannot be split without an empty side or shared media."""


@dataclass(frozen=True, kw_only=True)
class SplitColumns:
    """Samples as far as their split depends on them."""

    id: Callable[[int], str]
    """Returns the ID of a sample."""
    sides: npt.NDArray[np.integer]
    """Split that each sample states: 0 for none, 1 for train, 2 for held_out."""
    samples: npt.NDArray[np.integer]
    """Sample of each use of a media file, in order; no uses if samples about the same media form no group."""
    contents: npt.NDArray[np.integer]
    """Number of the content of each used file, in the order of the digests."""
    digests: Callable[[npt.NDArray[np.integer]], Sequence[str]]
    """Returns the digests of some contents."""
    path: Callable[[int], str]
    """Returns the path of a use."""

    def files_of(self, sample: int) -> Mapping[int, str]:
        """Return the paths of a sample's media by their contents."""
        uses = range(*np.searchsorted(self.samples, [sample, sample + 1]))
        return {int(self.contents[use]): self.path(use) for use in uses}


def split_samples(
    samples: Sequence[_AnySample],
    held_out_share: float,
    digests: Mapping[str, str] | None = None,
    *,
    allow_shared_media: bool = False,
) -> dict[Split, tuple[_AnySample, ...]]:
    """Hold out samples so that no media file is on both sides.

    Args:
        samples: At least two samples with distinct IDs.
        held_out_share: Wanted share of the samples that state no `split`, between 0 and 1.
        digests: Content digest of each media path; a path without a digest is identified by its name.
        allow_shared_media: Let samples that share media be on both sides: each sample is its own group.

    Returns:
        The splits, neither of them empty, each in the order of `samples`.

    Raises:
        SplitError: As for `held_out_samples`.
    """
    known = digests or {}
    uses = (
        []
        if allow_shared_media
        else [(place, path) for place, sample in enumerate(samples) for path in sample.media]
    )
    own = [known.get(path) or str(PurePosixPath(path)) for _, path in uses]
    distinct = sorted(set(own))
    ranks = {digest: rank for rank, digest in enumerate(distinct)}
    columns = SplitColumns(
        id=lambda place: samples[place].id,
        sides=np.array([SIDES.index(sample.split) for sample in samples], np.int8),
        samples=np.array([place for place, _ in uses], np.int32),
        contents=np.array([ranks[digest] for digest in own], np.int32),
        digests=lambda contents: [distinct[content] for content in contents.tolist()],
        path=lambda use: uses[use][1],
    )
    held_out = held_out_samples(columns, held_out_share)
    return {
        "train": tuple(sample for sample, held in zip(samples, held_out, strict=True) if not held),
        "held_out": tuple(sample for sample, held in zip(samples, held_out, strict=True) if held),
    }


def held_out_samples(samples: SplitColumns, share: float) -> _Booleans:
    """Return for each sample whether it is held out, so that no media file is on both sides.

    Args:
        samples: At least two samples with distinct IDs.
        share: Wanted share of the samples that state no split, between 0 and 1.

    Raises:
        SplitError: There are fewer than two samples or only one group, one side must be empty, or samples
            that share media state different splits.
    """
    count = len(samples.sides)
    if count < 2:
        raise SplitError(
            f"a dataset needs at least 2 usable samples, one to train on and one to hold out, but has "
            f"{count}: add samples about other media"
        )
    groups = _Groups(samples)
    held_out = _held_out(groups, share)[groups.of_sample]
    _require_both_sides(samples, groups, int(held_out.sum()))
    return held_out


class _Groups:
    """Samples that must be on the same side: connected components of samples and files."""

    def __init__(self, samples: SplitColumns) -> None:
        roots = _roots(samples)
        self.of_sample = np.full(len(samples.sides), -1, np.int32)
        self.of_sample[samples.samples] = roots[samples.contents]
        has_media = self.of_sample >= 0
        is_used = np.zeros(len(roots), np.bool_)
        is_used[self.of_sample[has_media]] = True
        self._contents, self._alone = (np.flatnonzero(one).astype(np.int32) for one in (is_used, ~has_media))
        roots[self._contents] = np.arange(len(self._contents))
        self.of_sample[has_media] = roots[self.of_sample[has_media]]
        self.of_sample[self._alone] = len(self._contents) + np.arange(len(self._alone))
        self._id, self._digests = samples.id, samples.digests
        self.sizes = np.bincount(self.of_sample)
        self.sides = self._stated_sides(samples)

    def __len__(self) -> int:
        return len(self.sizes)

    def _names(self, groups: _Integers) -> list[str]:
        """Return the names of some groups, given in order.

        A group's name is the smallest content digest of its media, or the ID of its sample without media.
        """
        known = len(self._contents)
        has_media = groups < known
        alone = self._alone[groups[~has_media] - known].tolist()
        return [*self._digests(self._contents[groups[has_media]]), *map(self._id, alone)]

    def by_position(self, groups: _Integers) -> list[int]:
        """Sort free groups by position, then by name."""
        keys = list(zip(self.positions[groups].tolist(), self._names(groups), strict=True))
        order = sorted(range(len(groups)), key=keys.__getitem__)
        return [int(groups[place]) for place in order]

    @cached_property
    def positions(self) -> npt.NDArray[np.float64]:
        """Position of each free group between 0 and 1; it is held out if this is below the wanted share."""
        free = np.flatnonzero(self.sides == 0)
        digests = bytearray()
        for start in range(0, len(free), _READ_AT_ONCE):
            for name in self._names(free[start : start + _READ_AT_ONCE]):
                digests += hashlib.sha256(name.encode()).digest()[:8]
        found = np.zeros(len(self))
        found[free] = np.frombuffer(digests, ">u8") / 2.0**64
        return found

    def _stated_sides(self, samples: SplitColumns) -> npt.NDArray[np.int8]:
        """Return the side that the samples of each group state; 0 if they state none."""
        stated = np.zeros((_HELD_OUT + 1, len(self)), np.bool_)
        stated[samples.sides, self.of_sample] = True
        both = stated[_TRAIN] & stated[_HELD_OUT]
        if both.any():
            group = self.of_sample[int(np.argmax(both[self.of_sample]))]
            raise _both_sides(samples, np.flatnonzero(self.of_sample == group))
        return np.where(stated[_HELD_OUT], _HELD_OUT, stated[_TRAIN]).astype(np.int8)


def _roots(samples: SplitColumns) -> npt.NDArray[np.int32]:
    """Return for each content the first one of its group."""
    contents = samples.contents
    parents: dict[int, int] = {}
    shared = np.flatnonzero(samples.samples[1:] == samples.samples[:-1])
    for one, other in zip(contents[shared].tolist(), contents[shared + 1].tolist(), strict=True):
        low, high = sorted((_root(parents, one), _root(parents, other)))
        parents[high] = low
    roots = np.arange(int(contents.max(initial=-1)) + 1, dtype=np.int32)
    for content in parents:
        roots[content] = _root(parents, content)
    return roots


def _root(parents: dict[int, int], content: int) -> int:
    while (above := parents.get(content, content)) != content:
        parents[content] = content = parents.get(above, above)
    return content


def _both_sides(samples: SplitColumns, group: _Integers) -> SplitError:
    train, held_out = (group[samples.sides[group] == side].tolist() for side in (_TRAIN, _HELD_OUT))
    of_train = {digest: one for one in train for digest in samples.files_of(one)}
    first, second, through = train[0], held_out[0], "through the media of other samples"
    for one in held_out:
        shared = next((digest for digest in samples.files_of(one) if digest in of_train), None)
        if shared is not None:
            first, second, through = of_train[shared], one, samples.files_of(one)[shared]
            break
    return SplitError(
        f"sample {samples.id(first)!r} with split train and sample {samples.id(second)!r} with split "
        f"held_out share media ({through}): give both the same split, or {_ALLOW}"
    )


def _held_out(groups: _Groups, share: float) -> _Booleans:
    """Return for each group whether it is held out; neither side is empty unless this is unavoidable."""
    stated, free = groups.sides == _HELD_OUT, groups.sides == 0
    held = free & (groups.positions < share)
    _balance(groups, held, share * int(groups.sizes[free].sum()))
    kept = int(free.sum()) - int(held.sum()) + int((groups.sides == _TRAIN).sum())
    if not held.any() and not stated.any() and kept > 1 and free.any():
        smallest = _smallest(groups, free)
        positions = groups.positions[smallest]
        held[groups.by_position(smallest[positions == positions.min()])[0]] = True
    elif not kept and int(held.sum()) + int(stated.sum()) > 1 and held.any():
        smallest = _smallest(groups, held)
        positions = groups.positions[smallest]
        held[groups.by_position(smallest[positions == positions.max()])[0]] = False
    both: _Booleans = held | stated
    return both


def _smallest(groups: _Groups, chosen: _Booleans) -> _Integers:
    """Return the groups with the fewest samples among the chosen ones."""
    return np.flatnonzero(chosen & (groups.sizes == groups.sizes[chosen].min()))


def _balance(groups: _Groups, held: _Booleans, wanted: float) -> None:
    """Bring the number of held-out samples within the tolerance by moving groups of several samples.

    A group that alone exceeds the tolerance goes to the training set. Then groups change sides in the order
    of their distance from the border, each only if this brings the number closer to the wanted one.
    """
    free = groups.sides == 0
    tolerance = _TOLERANCE * min(wanted, int(groups.sizes[free].sum()) - wanted)
    held &= groups.sizes <= max(1, wanted + tolerance)
    missing = wanted - int(groups.sizes[held].sum())
    if abs(missing) <= tolerance:
        return
    several = groups.by_position(np.flatnonzero(free & (groups.sizes > 1)))
    if missing > 0:
        order = [one for one in several if not held[one]]
    else:
        order = [one for one in several[::-1] if held[one]]
    for group in order:
        if abs(missing) <= tolerance:
            break
        change = int(groups.sizes[group]) * (-1 if held[group] else 1)
        if abs(missing - change) < abs(missing):
            held[group] = not held[group]
            missing -= change


def _require_both_sides(samples: SplitColumns, groups: _Groups, held_out: int) -> None:
    count = len(samples.sides)
    if 0 < held_out < count:
        return
    if len(groups) == 1 and not groups.sides[0]:
        path = samples.path(0)
        raise SplitError(
            f"all {count} samples share media ({path}), so none can be held out: add samples about other "
            f"media, or {_ALLOW}"
        )
    side, other = ("held_out", "train") if held_out else ("train", "held_out")
    raise SplitError(
        f"every sample is in split {side}, by its key `split` or because it shares media with a sample of "
        f"that split: set `split` to {other} for samples about other media, or remove the key"
    )
