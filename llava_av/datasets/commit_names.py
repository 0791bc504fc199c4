"""IDs of commits from the names that users write, and errors that suggest the nearest name."""

from llava_av.datasets.manifest import CommitError, commit_key, ref_key
from llava_av.datasets.tags import find_tag, list_tags
from llava_av.documents import close_name
from llava_av.plurals import listed
from llava_av.storage import ObjectStore, StoreError

__all__ = ["dataset_names", "full_id", "no_dataset"]

_MAX_NAMED = 8


def full_id(store: ObjectStore, name: str, wanted: str) -> str:
    """Return the ID of a commit from its first digits or from a tag; digits take precedence.

    Raises:
        CommitError: No commit or more than one matches; names the nearest tag.
    """
    prefix = commit_key(name, wanted).removesuffix(".json")
    found = [info.key.rpartition("/")[2].removesuffix(".json") for info in store.list(prefix)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommitError(
            f"each of {len(found)} commits of dataset {name} in {store.uri('')} starts with {wanted}: give "
            f"more digits, such as {listed([one[: len(wanted) + 8] for one in found], 2)}"
        )
    tag = find_tag(store, name, wanted)
    if tag is not None:
        return tag.commit
    if not store.exists(ref_key(name)):
        raise no_dataset(store, name)
    near = close_name(wanted, list_tags(store, name), cutoff=0.5)
    advice = f"did you mean {name}@{near}?" if near else f"see `llava-av data log {name}`"
    raise CommitError(
        f"no commit of dataset {name} in {store.uri('')} starts with {wanted}, and no tag has this name: "
        f"{advice}"
    )


def dataset_names(store: ObjectStore) -> list[str]:
    """Return the names of all datasets.

    Raises:
        StoreError: The store cannot be listed.
    """
    keys = [info.key.split("/") for info in store.list("datasets/")]
    return [parts[1] for parts in keys if len(parts) > 1 and "/".join(parts) == ref_key(parts[1])]


def no_dataset(store: ObjectStore, name: str) -> CommitError:
    """Return the error for a dataset that does not exist, with the nearest name and the existing ones."""
    try:
        names = dataset_names(store)
    except StoreError:  # S3 keys with few permissions cannot list
        existing = "the existing ones cannot be listed"
    else:
        near = close_name(name, names)
        guess = f"did you mean {near}? " if near else ""
        existing = f"{guess}existing are {listed(names, _MAX_NAMED)}" if names else "there is no dataset yet"
    return CommitError(
        f"dataset {name} does not exist in {store.uri('')} at {store.endpoint}: {existing}; "
        f"commit it with `llava-av data commit FOLDER --name {name}`"
    )
