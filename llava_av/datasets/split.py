"""Split of a user's dataset into a training set and a held-out set.

Samples that share a media file, directly or through other samples, form a group that stays on one side: a
clip that was trained on says nothing about new clips. Files are identified by content, so copies and links of
a clip count as that clip. A hash of the group's smallest content digest (of the sample's ID without media)
decides the side, so a sample keeps its side when samples about other media are added or removed. Two things
take precedence over the hash: the key `split` of a sample, and the wanted share of held-out samples, which
groups of several samples can miss by far.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

from llava_av.datasets.schema import Split
from llava_av.errors import UserError

__all__ = ["Split", "SplitError", "split_samples"]

# Deviation from the wanted number of held-out samples, as a share of the smaller side, above which groups of
# several samples change sides.
_TOLERANCE = 0.5
_ALLOW = "commit with `llava-av data commit --allow-shared-media` to hold out single samples anyway"


class _Sample(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def split(self) -> Split | None: ...
    @property
    def media(self) -> tuple[str, ...]: ...


_AnySample = TypeVar("_AnySample", bound=_Sample)
_Files = Callable[[_Sample], Mapping[str, str]]


class SplitError(UserError):
    """A dataset that cannot be split without an empty side or shared media."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """Samples that must be on the same side."""

    name: str
    """Smallest content digest of the group's media; the sample's ID without media."""
    ids: tuple[str, ...]
    side: Split | None
    """Side that the samples themselves state."""

    @property
    def position(self) -> float:
        """Position between 0 and 1; the group is held out if it is below the wanted share."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "big") / 2**64


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
        SplitError: There are fewer than two samples or only one group, one side must be empty, or samples
            that share media state different splits.
    """
    if len(samples) < 2:
        raise SplitError(
            f"a dataset needs at least 2 usable samples, one to train on and one to hold out, but has "
            f"{len(samples)}: add samples about other media"
        )
    files = _no_files if allow_shared_media else partial(_files, digests or {})
    groups = list(_groups(samples, files))
    held_out = {name for group in _held_out(groups, held_out_share) for name in group.ids}
    _require_both_sides(samples, groups, held_out)
    return {
        "train": tuple(sample for sample in samples if sample.id not in held_out),
        "held_out": tuple(sample for sample in samples if sample.id in held_out),
    }


def _files(digests: Mapping[str, str], sample: _Sample) -> dict[str, str]:
    """Return the paths of a sample's media by their content digests."""
    return {digests.get(path) or str(PurePosixPath(path)): path for path in sample.media}


def _no_files(sample: _Sample) -> dict[str, str]:
    return {}


def _groups(samples: Sequence[_Sample], files: _Files) -> Iterator[_Group]:
    """Yield the connected components of samples and files (union-find over content digests)."""
    parents: dict[str, str] = {}

    def root(digest: str) -> str:
        while parents.setdefault(digest, digest) != digest:
            parents[digest] = parents[parents[digest]]
            digest = parents[digest]
        return digest

    for sample in samples:
        if len(sample.media) > 1:
            first, *others = files(sample) or [""]
            for other in others:
                low, high = sorted((root(first), root(other)))
                parents[high] = low
    members: dict[tuple[str, bool], list[_Sample]] = {}
    for sample in samples:
        digest = next(iter(files(sample)), None)
        key = (sample.id, False) if digest is None else (root(digest), True)
        members.setdefault(key, []).append(sample)
    for (name, _), own_samples in members.items():
        side = _stated_side(own_samples, files)
        yield _Group(name=name, ids=tuple(sample.id for sample in own_samples), side=side)


def _stated_side(group: Sequence[_Sample], files: _Files) -> Split | None:
    """Return the side that a group's samples state; None if they state none."""
    if len(group) == 1:
        return group[0].split
    sides = {sample.split for sample in group if sample.split is not None}
    if len(sides) < 2:
        return next(iter(sides), None)
    train = next(sample for sample in group if sample.split == "train")
    of_train = {digest: sample for sample in group if sample.split == "train" for digest in files(sample)}
    for held in (sample for sample in group if sample.split == "held_out"):
        shared = next((digest for digest in files(held) if digest in of_train), None)
        if shared is not None:
            raise _both_sides(of_train[shared], held, files(held)[shared])
    held = next(sample for sample in group if sample.split == "held_out")
    raise _both_sides(train, held, "through the media of other samples")


def _both_sides(train: _Sample, held_out: _Sample, media: str) -> SplitError:
    return SplitError(
        f"sample {train.id!r} with split train and sample {held_out.id!r} with split held_out share media "
        f"({media}): give both the same split, or {_ALLOW}"
    )


def _held_out(groups: Sequence[_Group], share: float) -> set[_Group]:
    """Return the groups to hold out; neither side is empty unless this is unavoidable."""
    stated = {group for group in groups if group.side == "held_out"}
    free = [group for group in groups if group.side is None]
    held = {group for group in free if group.position < share}
    held = _balanced(free, held, share * sum(len(group.ids) for group in free))
    kept = len(free) - len(held) + sum(group.side == "train" for group in groups)
    if not held and not stated and kept > 1:
        held = set(sorted(free, key=lambda group: (len(group.ids), group.position, group.name))[:1])
    elif not kept and len(held) + len(stated) > 1:
        back = sorted(held, key=lambda group: (len(group.ids), -group.position, group.name))
        held -= set(back[:1])
    return held | stated


def _balanced(free: Sequence[_Group], held: set[_Group], wanted: float) -> set[_Group]:
    """Bring the number of held-out samples within the tolerance by moving groups of several samples.

    A group that alone exceeds the tolerance goes to the training set. Then groups change sides in the order
    of their distance from the border, each only if this brings the number closer to the wanted one.
    """
    tolerance = _TOLERANCE * min(wanted, sum(len(group.ids) for group in free) - wanted)
    held = {group for group in held if len(group.ids) <= max(1, wanted + tolerance)}
    missing = wanted - sum(len(group.ids) for group in held)
    several = sorted((group for group in free if len(group.ids) > 1), key=lambda g: (g.position, g.name))
    order = [g for g in several if g not in held] if missing > 0 else [g for g in several[::-1] if g in held]
    for group in order:
        if abs(missing) <= tolerance:
            break
        change = len(group.ids) if group not in held else -len(group.ids)
        if abs(missing - change) < abs(missing):
            held.symmetric_difference_update({group})
            missing -= change
    return held


def _require_both_sides(samples: Sequence[_Sample], groups: Sequence[_Group], held_out: set[str]) -> None:
    if 0 < len(held_out) < len(samples):
        return
    if len(groups) == 1 and groups[0].side is None:
        raise SplitError(
            f"all {len(samples)} samples share media ({samples[0].media[0]}), so none can be held out: add "
            f"samples about other media, or {_ALLOW}"
        )
    side, other = ("held_out", "train") if held_out else ("train", "held_out")
    raise SplitError(
        f"every sample is in split {side}, by its key `split` or because it shares media with a sample of "
        f"that split: set `split` to {other} for samples about other media, or remove the key"
    )
