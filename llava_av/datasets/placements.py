"""Places of small media files, which are stored together in packs.

datasets/<name>/packs/<sha256 of a range of files>.json    `Placement` of the range

A pack is a blob whose content is that of several media files, one after the other. Nothing else names it, so
the ID of a commit does not depend on where its files are stored. The placement of a range of files names the
packs that have some of them; the other files of the range are blobs of their own. Two ranges may refer to
different packs for the same content.

A placement that is lost or damaged counts as absent: its files are then looked for one by one.
"""

import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from llava_av.datasets.digest_index import DigestIndex
from llava_av.datasets.manifest import CommitError, FileRange, FlatManifest, Manifest, blob_key
from llava_av.datasets.ranges import FileRow
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectDamaged, ObjectStore

__all__ = [
    "LARGEST_PACKED",
    "Place",
    "Placement",
    "Places",
    "placement_key",
    "placement_keys",
    "read_placement",
    "readable_places",
    "write_placement",
]

_LOG = logging.getLogger(__name__)

LARGEST_PACKED = 256 << 10
"""Size of the largest file that a pack can have."""


class Place(NamedTuple):
    """First byte of a file's content in a pack."""

    pack: str
    """Digest of the pack."""
    offset: int

    @property
    def key(self) -> str:
        """Key of the pack."""
        return blob_key(self.pack)


class Places(Mapping[str, Place]):
    """Places of files in packs by their digests, as columns: there may be millions."""

    def __init__(self) -> None:
        self._digests = DigestIndex()
        self._packs: dict[str, int] = {}
        self._names: list[str] = []
        self._numbers, self._offsets = array("i"), array("q")

    def add(self, places: Mapping[str, Place]) -> None:
        """Add places; they replace earlier ones of the same digests."""
        self._digests.add(places)
        for place in places.values():
            if place.pack not in self._packs:
                self._packs[place.pack] = len(self._names)
                self._names.append(place.pack)
            self._numbers.append(self._packs[place.pack])
            self._offsets.append(place.offset)

    def __getitem__(self, sha256: str) -> Place:
        places = self._digests.places(sha256)
        if not places:
            raise KeyError(sha256)
        return Place(self._names[self._numbers[places[-1]]], self._offsets[places[-1]])

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self._digests))

    def __len__(self) -> int:
        return len(set(self._digests))


class Placement(FrozenModel):
    """Files of a range that are in packs, as columns."""

    packs: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]
    """Digests of the packs."""
    sha256: tuple[str, ...]
    """Digests of the files."""
    pack: tuple[int, ...]
    """Positions of their packs in `packs`."""
    offset: tuple[int, ...]
    """Their first bytes in these packs."""

    @property
    def places(self) -> dict[str, Place]:
        """Return the place of each file by its digest."""
        rows = zip(self.sha256, self.pack, self.offset, strict=True)
        return {digest: Place(self.packs[pack], offset) for digest, pack, offset in rows}

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        if not len(self.sha256) == len(self.pack) == len(self.offset):
            raise ValueError("the columns have different lengths")
        if any(not 0 <= pack < len(self.packs) for pack in self.pack) or min(self.offset, default=0) < 0:
            raise ValueError("a file is in no pack")
        return self


def placement_key(name: str, digest: str) -> str:
    """Return the key of the placement of a range of files of a dataset."""
    return f"datasets/{name}/packs/{digest}.json"


def placement_keys(name: str, manifest: Manifest | FlatManifest) -> list[str]:
    """Return the keys of the placements that a commit may have."""
    return (
        [placement_key(name, one.sha256) for one in manifest.files] if isinstance(manifest, Manifest) else []
    )


def read_placement(store: ObjectStore, name: str, one: FileRange) -> Placement | None:
    """Return the placement of a range of files; None if all of them are blobs of their own.

    Raises:
        CommitError: The placement is damaged.
        StoreError: The object store cannot be used.
    """
    key = placement_key(name, one.sha256)
    try:
        found = store.find_json(key)
        return None if found is None else Placement.model_validate(found)
    except (ObjectDamaged, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not what was written"
        raise CommitError(
            f"the places of files from {one.first} are damaged ({store.uri(key)}: {reason}): run `llava-av "
            f"data verify {name}` with --repair and a folder that has an intact copy"
        ) from None


def readable_places(store: ObjectStore, name: str, one: FileRange) -> Mapping[str, Place]:
    """Return the places of the files of a range in packs, by their digest; none if these are damaged."""
    try:
        found = read_placement(store, name, one)
    except CommitError as error:
        _LOG.warning("looking for files one by one: %s", error)
        return {}
    return {} if found is None else found.places


def write_placement(
    store: ObjectStore, name: str, one: FileRange, rows: Iterable[FileRow], places: Mapping[str, Place]
) -> None:
    """Write the placement of a range of files, or delete it if none of them is in a pack.

    Args:
        store: Store of the commit.
        name: Name of its dataset.
        one: The range.
        rows: Its files.
        places: Places of files in packs by their digest; other files are blobs of their own.
    """
    found: dict[str, Place] = {}
    for row in rows:
        if row.sha256 not in found and (place := places.get(row.sha256)) is not None:
            found[row.sha256] = place
    key = placement_key(name, one.sha256)
    if not found:
        # A placement of an earlier commit may name packs that this commit has not compared.
        store.delete(key)
        return
    packs = tuple(dict.fromkeys(place.pack for place in found.values()))
    numbers = {pack: number for number, pack in enumerate(packs)}
    placement = Placement(
        packs=packs,
        sha256=tuple(found),
        pack=tuple(numbers[place.pack] for place in found.values()),
        offset=tuple(place.offset for place in found.values()),
    )
    store.put_json(key, placement.model_dump())
