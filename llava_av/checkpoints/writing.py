"""Writing a checkpoint so that a kill at any moment leaves a whole one or none, and removing old ones."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from llava_av.checkpoints.manifest import (
    CheckpointError,
    CheckpointFile,
    CheckpointManifest,
    CheckpointRef,
    CheckpointState,
    checkpoint_manifest_key,
    checkpoint_prefix,
)
from llava_av.checkpoints.reading import (
    read_manifest,
    sizes_by_step,
    verify_checkpoint,
    whole_checkpoints,
)
from llava_av.storage import ObjectStore, file_sha256, map_parallel

__all__ = ["Writers", "prune", "write_checkpoint"]

_LOG = logging.getLogger(__name__)


class Writers(Protocol):
    """Processes that write one checkpoint together, each the files that only it has."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes the manifest."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, the first one's at position 0; returns when all have called it."""
        ...


class _Alone:
    first = True

    def gather(self, value: Any) -> list[Any]:
        return [value]


def write_checkpoint(
    store: ObjectStore,
    run: str,
    step: int,
    files: Mapping[str, Path],
    state: CheckpointState,
    *,
    extra: dict[str, Any],
    writers: Writers | None = None,
    replace: bool = False,
) -> CheckpointRef:
    """Uploads the files of a checkpoint, then the manifest that makes it one.

    A step has one state: if it is there already with the same digest and every byte of it is intact, nothing
    is uploaded; if it is damaged, it is written again. A run has one writer, or one group, at a time.

    Args:
        store: Where to write.
        run: Run key.
        step: Optimizer steps done.
        files: This process's files by their name in the checkpoint; names may hold slashes.
        state: Digest of the state in the files, and the data position.
        extra: JSON that the manifest carries along.
        writers: The processes that call this together, each with its own files; None: this one alone.
        replace: Whether a checkpoint of the step with another digest is replaced, with a warning that names
            both; otherwise it is an error.

    Raises:
        CheckpointError: The step exists with another digest, and `replace` is False.
    """
    prefix = checkpoint_prefix(run, step)
    uri = store.uri(prefix.rstrip("/"))
    ref = CheckpointRef(uri=uri, step=step, digest=state.digest)
    group = writers or _Alone()
    if group.gather(_is_there(store, run, ref, replace) if group.first else None)[0]:
        return ref
    # Names that lead out of the checkpoint are refused before anything is written.
    mine = CheckpointManifest(
        step=step,
        digest=state.digest,
        files=dict(map_parallel(_describe, sorted(files.items()))),
        data_position=state.data_position,
        extra=extra,
    )
    map_parallel(lambda item: store.put_file(f"{prefix}{item[0]}", item[1]), sorted(files.items()))
    every = group.gather(mine.files)
    if group.first:
        together = {name: file for one in every for name, file in one.items()}
        manifest = mine.model_copy(update={"files": together})
        if not store.create_json(checkpoint_manifest_key(prefix), manifest.model_dump(mode="json")):
            _refuse_another(read_manifest(store, uri), ref)
    group.gather(None)
    return ref


def prune(store: ObjectStore, run: str, keep: int) -> tuple[int, ...]:
    """Delete all but the newest `keep` whole checkpoints of a run, and what is left of older, damaged ones.

    The manifest goes first, so that a kill in between leaves leftovers and never a checkpoint without files.

    Args:
        store: Where the checkpoints are.
        run: Run key.
        keep: How many stay; at least 1.

    Returns:
        The steps whose files were deleted.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}: at least one checkpoint stays")
    found = sizes_by_step(store, run)
    kept = {ref.step for ref in itertools.islice(whole_checkpoints(store, run), keep)}
    # Files of a step after the newest manifest may be those of a checkpoint that is being written.
    removed = tuple(step for step in sorted(found) if step not in kept and kept and step < max(kept))
    for step in removed:
        _delete(store, *found[step])
    return removed


def _is_there(store: ObjectStore, run: str, ref: CheckpointRef, replace: bool) -> bool:
    """Return whether the step is there, intact; what is damaged or to be replaced is deleted."""
    prefix, sizes = sizes_by_step(store, run).get(ref.step, ("", {}))
    if checkpoint_manifest_key("") not in sizes:
        return False
    wrong = _what_is_wrong(store, ref, replace)
    if wrong is None:
        return True
    _LOG.warning("written again: %s", wrong)
    _delete(store, prefix, sizes)
    return False


def _what_is_wrong(store: ObjectStore, ref: CheckpointRef, replace: bool) -> str | None:
    """Return why the checkpoint of a step has to be written again; None if it need not."""
    try:
        present = read_manifest(store, ref.uri)
    except CheckpointError as error:
        return str(error)
    if not replace:
        _refuse_another(present, ref)
    if present.digest != ref.digest:
        return (
            f"checkpoint {ref.uri} has another state (digest {present.digest}) than this training has now "
            f"(digest {ref.digest}): the same run gave two results, and the newer one is kept"
        )
    try:
        verify_checkpoint(store, ref.uri, digest=ref.digest)
    except CheckpointError as error:
        return str(error)
    return None


def _refuse_another(present: CheckpointManifest, ref: CheckpointRef) -> None:
    if present.digest != ref.digest:
        raise CheckpointError(
            f"checkpoint {ref.uri} exists with another state (digest {present.digest[:12]}, not "
            f"{ref.digest[:12]}): the same run gave two results; delete that checkpoint to train again"
        )


def _describe(item: tuple[str, Path]) -> tuple[str, CheckpointFile]:
    name, path = item
    return name, CheckpointFile(sha256=file_sha256(path), bytes=path.stat().st_size)


def _delete(store: ObjectStore, prefix: str, sizes: Mapping[str, int]) -> None:
    if checkpoint_manifest_key("") in sizes:
        store.delete(checkpoint_manifest_key(prefix))
    names = [name for name in sizes if name != checkpoint_manifest_key("")]
    map_parallel(lambda name: store.delete(prefix + name), names)
