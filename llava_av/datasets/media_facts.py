"""Properties of the media files of a commit, as its check found them: lengths, sizes, rates.

datasets/<name>/media/<sha256 of a range>.json    `MediaInfo` of each file, by the digest of its content
datasets/<name>/media/<id>.json                   the same of all files of a commit of an earlier version

datasets/<name>/media/<sha256 of a range>.pending.json    digests of its files that were not decoded

They are written beside a commit and are not part of it, so they do not change its ID. A range has no
properties while those of any of its files are unknown; committing the folder again writes them.
`pending_checks` decodes pending files.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial

from pydantic import ConfigDict, TypeAdapter, ValidationError

from llava_av.datasets.commits import Commit, read_commit
from llava_av.datasets.manifest import CommitError, FileRange, Manifest
from llava_av.media.info import MediaInfo
from llava_av.storage import ObjectStore, map_parallel

__all__ = [
    "RangeFacts",
    "facts_of_ranges",
    "has_facts",
    "media_facts_keys",
    "pending_keys",
    "pending_of_ranges",
    "read_facts",
    "stored_pending",
    "write_facts",
    "write_range_facts",
]

RangeFacts = Callable[[FileRange], Mapping[str, MediaInfo]]
"""Function that returns the properties of the files of a range, by the digest of their content."""

_FACTS = TypeAdapter(dict[str, MediaInfo], config=ConfigDict(defer_build=True))
_PENDING = ".pending"


def media_facts_keys(commit: Commit) -> list[str]:
    """Return the keys of the properties of a commit's media."""
    return [_key(commit.name, name) for name in _names(commit)]


def pending_keys(commit: Commit) -> list[str]:
    """Return the keys that list the pending files of a commit; there is none for a range without any."""
    return [_key(commit.name, name, _PENDING) for name in _names(commit)]


def _names(commit: Commit) -> list[str]:
    manifest = commit.manifest
    return [one.sha256 for one in manifest.files] if isinstance(manifest, Manifest) else [commit.id]


def _key(dataset: str, name: str, ending: str = "") -> str:
    return f"datasets/{dataset}/media/{name}{ending}.json"


def write_facts(
    store: ObjectStore,
    commit: Commit,
    facts: Mapping[str, MediaInfo],
    pending: AbstractSet[str] = frozenset(),
) -> None:
    """Write the properties of the media of each range that has none; unknown ones are those of the parent.

    Args:
        store: Store of the commit.
        commit: The commit.
        facts: Properties of media files by the digest of their content.
        pending: Digests of those that were not decoded.

    Raises:
        CommitError: A range, or properties of the parent, are lost or damaged.
        StoreError: The object store cannot be used.
    """
    manifest = commit.manifest
    if not isinstance(manifest, Manifest):
        found = _found({entry.sha256 for entry in manifest.media.values()}, facts)
        _write(store, commit.name, commit.id, found, pending)
        return
    stored = _stored_keys(store, commit.name)
    files = commit.reader(store).files
    known, unchecked, inherited = facts, pending, False
    for one in manifest.files:
        key = _key(commit.name, one.sha256)
        if key in stored:
            continue
        digests = {row.sha256 for row in files.load(one)}
        found = _found(digests, known)
        if not inherited and len(found) < len(digests):
            known, inherited = {**_of_parent(store, commit), **facts}, True
            unchecked = pending | _pending_of_parent(store, commit)
            found = _found(digests, known)
        if len(found) == len(digests):
            _write(store, commit.name, one.sha256, found, unchecked)


def _found(digests: Iterable[str], facts: Mapping[str, MediaInfo]) -> dict[str, MediaInfo]:
    """Return the properties of files as far as they are known, each looked up once."""
    found = ((digest, facts.get(digest)) for digest in digests)
    return {digest: info for digest, info in found if info is not None}


def write_range_facts(
    store: ObjectStore,
    dataset: str,
    one: FileRange,
    facts: Mapping[str, MediaInfo],
    pending: AbstractSet[str],
) -> None:
    """Write the properties of all files of a range of a dataset; arguments as for `write_facts`."""
    _write(store, dataset, one.sha256, facts, pending)


def _write(
    store: ObjectStore,
    dataset: str,
    name: str,
    facts: Mapping[str, MediaInfo],
    pending: AbstractSet[str],
) -> None:
    own = sorted(facts)
    if pending and (unchecked := [digest for digest in own if digest in pending]):
        # Written first, because a range whose properties are stored is not written again.
        store.put_json(_key(dataset, name, _PENDING), {"pending": unchecked})
    # One line for each file, and one text for files that share an object: the encoder is slow.
    distinct = {id(info): info for info in facts.values()}
    texts = {number: json.dumps(vars(info)) for number, info in distinct.items()}
    lines = [f' "{digest}": {texts[id(facts[digest])]}' for digest in own]
    key = _key(dataset, name)
    text = ",\n".join(lines)
    store.put_sealed(key, f"{{\n{text}\n}}\n".encode())


def _of_parent(store: ObjectStore, commit: Commit) -> dict[str, MediaInfo]:
    """Return the properties of files in ranges of the parent that the commit does not have."""
    if commit.parent is None:
        return {}
    parent = read_commit(store, commit.name, commit.parent)
    own = set(media_facts_keys(commit))
    return _read_all(store, [key for key in media_facts_keys(parent) if key not in own])


def _pending_of_parent(store: ObjectStore, commit: Commit) -> frozenset[str]:
    if commit.parent is None:
        return frozenset()
    found = stored_pending(store, read_commit(store, commit.name, commit.parent))
    return frozenset(digest for digests in found.values() for digest in digests)


def stored_pending(store: ObjectStore, commit: Commit) -> dict[str, list[str]]:
    """Return the lists of pending files of a commit by key, some of which may have been decoded since."""
    stored = _stored_keys(store, commit.name)
    keys = [key for key in pending_keys(commit) if key in stored]
    found = zip(keys, map_parallel(store.find_json, keys), strict=True)
    return {key: list(one["pending"]) for key, one in found if one is not None}


def has_pending(store: ObjectStore, dataset: str) -> bool:
    """Check whether a commit of a dataset lists pending files, which may have been decoded since."""
    return any(key.endswith(f"{_PENDING}.json") for key in _stored_keys(store, dataset))


def pending_of_ranges(store: ObjectStore, commit: Commit) -> Callable[[FileRange], frozenset[str]]:
    """Return the function that reads the digests of a range's pending files, as `stored_pending`."""

    def read(name: str) -> frozenset[str]:
        found = store.find_json(_key(commit.name, name, _PENDING))
        return frozenset() if found is None else frozenset(found["pending"])

    if isinstance(commit.manifest, Manifest):
        return lambda one: read(one.sha256)
    pending = read(commit.id)
    return lambda one: pending


def _stored_keys(store: ObjectStore, dataset: str) -> set[str]:
    return {info.key for info in store.list(f"datasets/{dataset}/media/")}


def has_facts(store: ObjectStore, commit: Commit) -> bool:
    """Check whether the properties of all media of a commit are stored."""
    return _stored_keys(store, commit.name).issuperset(media_facts_keys(commit))


def read_facts(store: ObjectStore, commit: Commit) -> dict[str, MediaInfo]:
    """Return the properties of media files by the digest of their content, as far as they are stored.

    Raises:
        CommitError: The stored properties do not have their form.
        ObjectDamaged: They do not match their checksum.
    """
    return _read_all(store, media_facts_keys(commit))


def facts_of_ranges(store: ObjectStore, commit: Commit) -> RangeFacts:
    """Return the function that reads the properties of a range's files; errors as for `read_facts`."""
    if isinstance(commit.manifest, Manifest):
        return lambda one: _read(store, _key(commit.name, one.sha256))
    facts = read_facts(store, commit)
    return lambda one: facts


def _read_all(store: ObjectStore, keys: Iterable[str]) -> dict[str, MediaInfo]:
    return {
        digest: info for facts in map_parallel(partial(_read, store), keys) for digest, info in facts.items()
    }


def _read(store: ObjectStore, key: str) -> dict[str, MediaInfo]:
    found = store.find_json(key)
    try:
        return {} if found is None else _FACTS.validate_python(found)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise CommitError(
            f"{store.uri(key)} does not describe media ({reason}): delete it and commit the folder again"
        ) from None
