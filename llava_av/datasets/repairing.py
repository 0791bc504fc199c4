"""Repair of stored content: damaged blobs are replaced by intact content from a folder.

The content is a media file of any name, or a list of samples or files, which is built again from the
conversations of the folder. A damaged pack is written again with the intact content of its files, which
repairs it for all commits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from llava_av.datasets.commits import Commit
from llava_av.datasets.contents import named_media
from llava_av.datasets.manifest import CommitError, blob_key, sha256_hex
from llava_av.datasets.placements import placement_key, read_placement
from llava_av.datasets.ranges import FileRow, cut_files, cut_samples, sample_line
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample, SampleError
from llava_av.datasets.sources.rows import DatasetError, find_rows
from llava_av.datasets.verification import Blob, BlobCheck, DamagedBlob, blob_batches, readable_samples
from llava_av.storage import ObjectMissing, ObjectStore, StoreError, file_sha256, map_parallel

__all__ = ["repair"]


def repair(
    store: ObjectStore, commits: Sequence[Commit], damaged: Iterable[DamagedBlob], folder: Path
) -> list[str]:
    """Replace damaged blobs by intact content from a folder; return the digests of repaired blobs.

    Args:
        store: Store of the commits.
        commits: Commits that need the blobs.
        damaged: The blobs.
        folder: Folder with intact content: that of the dataset, or a copy of any commit.

    Raises:
        CommitError: The folder does not exist.
        StoreError: The object store cannot be used.
    """
    if not folder.is_dir():
        raise CommitError(f"--repair {folder} is not a folder: give one with intact copies of the files")
    wanted = {blob.sha256 for blob in damaged}
    batches = (batch for commit in commits for batch in blob_batches(commit, commit.reader(store)))
    copies = {one.copy: one for batch in batches for one in batch if one.sha256 in wanted}
    sizes = {one.size for one in copies.values()}
    files = {
        digest: path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size in sizes and (digest := file_sha256(path)) in wanted
    }
    lists = dict(_rebuilt_lists(store, commits, wanted - files.keys(), folder))
    map_parallel(lambda digest: store.put_bytes(blob_key(digest), lists[digest]), lists)
    alone = {one.sha256 for one in copies.values() if one.place is None} & files.keys()
    map_parallel(lambda digest: store.put_file(blob_key(digest), files[digest]), alone)
    packed = [one for one in copies.values() if one.place is not None and one.sha256 in files]
    _repair_packs(store, packed, files)
    _delete_damaged_placements(store, commits)
    rest = BlobCheck(store, None)
    rest.verify(one for one in copies.values() if one.sha256 in files.keys() | lists.keys())
    return [digest for digest in (*files, *lists) if digest not in rest.damaged]


def _repair_packs(store: ObjectStore, blobs: Iterable[Blob], files: Mapping[str, Path]) -> None:
    packs: dict[str, list[tuple[int, Path]]] = {}
    for one in blobs:
        if one.place is not None:
            packs.setdefault(one.place.pack, []).append((one.place.offset, files[one.sha256]))
    for pack, parts in packs.items():
        _repair_pack(store, pack, parts)


def _repair_pack(store: ObjectStore, pack: str, parts: Iterable[tuple[int, Path]]) -> None:
    """Write a pack again with intact content of some of its files, given by their first bytes."""
    key, is_known = blob_key(pack), True
    try:
        content = bytearray(store.get_bytes(key))
    except ObjectMissing:
        content = bytearray()
    except StoreError:
        content, is_known = bytearray(), False
    for offset, path in sorted(parts):
        intact = path.read_bytes()
        content.extend(bytes(max(0, offset + len(intact) - len(content))))
        content[offset : offset + len(intact)] = intact
    whole = bytes(content)
    # If the store cannot read the pack now, other files of it may still be intact.
    if is_known or sha256_hex(whole) == pack:
        store.put_bytes(key, whole)


def _delete_damaged_placements(store: ObjectStore, commits: Iterable[Commit]) -> None:
    """Delete placements that cannot be read; their files count as blobs of their own already."""
    for commit in commits:
        for one in commit.reader(store).files.ranges:
            try:
                read_placement(store, commit.name, one)
            except CommitError:
                store.delete(placement_key(commit.name, one.sha256))


def _rebuilt_lists(
    store: ObjectStore, commits: Sequence[Commit], wanted: set[str], folder: Path
) -> Iterator[tuple[str, bytes]]:
    """Yield the lists of samples and files that the conversations of a folder contain."""
    samples = _conversations(folder) if wanted else {}
    for commit in commits if samples else ():
        reader = commit.reader(store)
        members: dict[str, list[Sample]] = {}
        for split in commit.manifest.splits:
            members[split] = _members(reader, split, samples)
            lines = sorted(map(sample_line, members[split]))
            contents = [content for _, content in cut_samples(lines)]
            # A commit of an earlier version has the whole list as one blob.
            yield from _wanted([*contents, b"".join(contents)], wanted)
        yield from _wanted((content for _, content in cut_files(_rows(folder, members))), wanted)


def _wanted(contents: Iterable[bytes], wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    for content in contents:
        if (digest := sha256_hex(content)) in wanted:
            yield digest, content


def _rows(folder: Path, splits: Mapping[str, Sequence[Sample]]) -> list[FileRow]:
    """Return the files of a folder that samples name, sorted by path."""
    paths = named_media(sample for samples in splits.values() for sample in samples)
    files = {path: folder / path for path in sorted(paths) if (folder / path).is_file()}
    return [FileRow(path, file_sha256(file), file.stat().st_size) for path, file in files.items()]


def _members(reader: ContentReader, split: str, samples: Mapping[str, Sample]) -> list[Sample]:
    """Return the samples of a folder that state a split, or state none and are in no other list."""
    others = {
        sample.id for other in reader.splits if other != split for sample in readable_samples(reader, other)
    }
    return [
        sample.model_copy(update={"split": None})
        for sample in samples.values()
        if sample.split == split or (sample.split is None and sample.id not in others)
    ]


def _conversations(folder: Path) -> dict[str, Sample]:
    """Return the usable samples of a folder by ID; none if it has no conversations."""
    try:
        rows = find_rows(folder)
    except DatasetError:
        return {}
    samples: dict[str, Sample] = {}
    for number, row in rows.rows:
        try:
            sample = rows.parse(number, row)
        except SampleError:
            continue
        samples.setdefault(sample.id, sample)
    return samples
