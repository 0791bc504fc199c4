"""Properties of the media files of a commit, as its check found them: lengths, sizes, rates.

datasets/<name>/media/<id>.json    `MediaInfo` of each file, by the digest of its content

They are written beside a commit and are not part of it, so they do not change its ID. Commits of earlier
versions have none until their folder is committed again.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llava_av.datasets.commits import Commit
from llava_av.datasets.manifest import CommitError
from llava_av.media.info import MediaInfo
from llava_av.storage import ObjectStore

__all__ = ["has_facts", "media_facts_key", "read_facts", "write_facts"]

_FACTS = TypeAdapter(dict[str, MediaInfo])


def media_facts_key(name: str, commit: str) -> str:
    """Return the key of the properties of a commit's media."""
    return f"datasets/{name}/media/{commit}.json"


def write_facts(store: ObjectStore, commit: Commit, facts: Mapping[str, MediaInfo]) -> None:
    """Write the properties of media files, by the digest of their content."""
    content: dict[str, Any] = {digest: asdict(info) for digest, info in sorted(facts.items())}
    store.put_json(media_facts_key(commit.name, commit.id), content)


def has_facts(store: ObjectStore, commit: Commit) -> bool:
    """Check whether the properties of a commit's media are stored."""
    return store.exists(media_facts_key(commit.name, commit.id))


def read_facts(store: ObjectStore, commit: Commit) -> dict[str, MediaInfo]:
    """Return the properties of media files by the digest of their content; none for an older commit.

    Raises:
        CommitError: The stored properties do not have their form.
        ObjectDamaged: They do not match their checksum.
    """
    key = media_facts_key(commit.name, commit.id)
    found = store.find_json(key)
    try:
        return {} if found is None else _FACTS.validate_python(found)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise CommitError(
            f"{store.uri(key)} does not describe media ({reason}): delete it and commit the folder again"
        ) from None
