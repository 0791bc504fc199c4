"""Names that users give to commits of a dataset.

datasets/<name>/refs/tags/<tag>    `Tag`

A tag can be used wherever `NAME@COMMIT` can. If the text is also the start of a commit's ID, it means that
commit.
"""

import re

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError

from llava_av.datasets.manifest import CommitError, commit_key
from llava_av.datasets.writers import announced
from llava_av.documents import close_name
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectMissing, ObjectStore
from llava_av.storage.seals import json_bytes, seal

__all__ = ["Tag", "delete_tag", "find_tag", "list_tags", "require_tag", "set_tag", "tag_prefix"]

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Tag(FrozenModel):
    """Commit that a tag names, with the time and the author of the tag."""

    model_config = ConfigDict(extra="ignore")

    commit: str = Field(pattern=r"^[0-9a-f]{64}$")
    """ID of the commit."""
    at: AwareDatetime
    """Time at which the tag was set or moved."""
    by: str
    """User who set or moved it."""


def tag_prefix(name: str) -> str:
    """Return the prefix of the keys of a dataset's tags."""
    return f"datasets/{name}/refs/tags/"


@announced
def set_tag(store: ObjectStore, name: str, tag: str, value: Tag, *, force: bool = False) -> bool:
    """Give a commit a name; return False if it has the name already.

    Args:
        store: Store of the dataset.
        name: Name of the dataset.
        tag: The tag.
        value: Commit, time and author.
        force: True to move a tag that names another commit.

    Raises:
        CommitError: The tag is not allowed, names another commit, or is moved by others at the same time, or
            the commit does not exist.
    """
    if not _TAG.fullmatch(tag):
        raise CommitError(
            f"tag {tag!r} of dataset {name} must be 1 to 100 letters, digits, '.', '-', '_', beginning with "
            "a letter or digit"
        )
    if not store.exists(commit_key(name, value.commit)):
        raise CommitError(f"dataset {name} has no commit {value.commit}")
    key = f"{tag_prefix(name)}{tag}"
    content = seal(key, json_bytes(value.model_dump(mode="json")))
    if store.create(key, content):
        return True
    try:
        stored, etag = store.get_with_etag(key)
    except ObjectMissing:
        stored, etag = b"", ""
    current = _parsed(store, key, stored) if stored else None
    if current is not None and current.commit == value.commit:
        return False
    if current is not None and not force:
        raise CommitError(
            f"tag {tag} of dataset {name} names commit {current.commit[:16]}: use another name, or move the "
            "tag with --force"
        )
    if not etag or not store.replace(key, content, etag):
        raise CommitError(f"tag {tag} of dataset {name} was changed by another command: run again")
    return True


def delete_tag(store: ObjectStore, name: str, tag: str) -> None:
    """Delete a tag; its commit stays.

    Raises:
        CommitError: There is no such tag; names the nearest one.
    """
    require_tag(store, name, tag)
    store.delete(f"{tag_prefix(name)}{tag}")


def find_tag(store: ObjectStore, name: str, tag: str) -> Tag | None:
    """Return a tag; None if there is no such tag."""
    if not _TAG.fullmatch(tag):
        return None
    key = f"{tag_prefix(name)}{tag}"
    try:
        return _parsed(store, key, store.get_bytes(key))
    except ObjectMissing:
        return None


def require_tag(store: ObjectStore, name: str, tag: str) -> Tag:
    """Return a tag.

    Raises:
        CommitError: There is no such tag; names the nearest one.
    """
    found = find_tag(store, name, tag)
    if found is None:
        near = close_name(tag, list_tags(store, name), cutoff=0.5)
        advice = f"did you mean {near}?" if near else f"see `llava-av data tag {name}`"
        raise CommitError(f"dataset {name} has no tag {tag!r}: {advice}")
    return found


def list_tags(store: ObjectStore, name: str) -> dict[str, Tag]:
    """Return all tags of a dataset by name, sorted."""
    prefix = tag_prefix(name)
    keys = [info.key for info in store.list(prefix)]
    return {key.removeprefix(prefix): _parsed(store, key, store.get_bytes(key)) for key in keys}


def _parsed(store: ObjectStore, key: str, stored: bytes) -> Tag:
    try:
        return Tag.model_validate_json(store.unsealed(key, stored).content)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise CommitError(
            f"{store.uri(key)} is not a tag ({reason}): restore it from a backup, or delete it"
        ) from None
