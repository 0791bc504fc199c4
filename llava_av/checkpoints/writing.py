"""Writing of checkpoints, complete or absent after a kill, and pruning of old ones."""

import itertools
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from llava_av.checkpoints.checkpoint_manifest import (
    CheckpointError,
    CheckpointFile,
    CheckpointManifest,
    CheckpointRef,
    CheckpointState,
    checkpoint_manifest_key,
    checkpoint_prefix,
)
from llava_av.checkpoints.fetching import (
    read_manifest,
    sizes_by_step,
    verify_checkpoint,
    whole_checkpoints,
)
from llava_av.storage import ObjectStore, file_sha256, map_parallel

__all__ = ["Writers", "prune", "write_checkpoint"]

_LOG = logging.getLogger(__name__)


class Writers(Protocol):
    """Processes that write one checkpoint together, each with its own files."""

    @property
    def is_rank_zero(self) -> bool:
        """True for the process that writes the manifest."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes by rank, after all have called this."""
        ...


class _Alone:
    is_rank_zero = True

    def gather(self, value: Any) -> list[Any]:
        return [value]


def write_checkpoint(
    store: ObjectStore,
    run: str,
    step: int,
    files: Mapping[str, Path],
    state: CheckpointState,
    *,
    extra: dict[str, JsonValue],
    writers: Writers | None = None,
    replace: bool = False,
    described: Mapping[str, CheckpointFile] | None = None,
) -> CheckpointRef:
    """Upload the files of a checkpoint, then its manifest, which completes it.

    A step has one state: if it exists with the same digest and all its bytes are intact, nothing is uploaded;
    if it is damaged, it is written again. A run has one writer, or one group of writers, at a time.

    Args:
        store: Object store to write to.
        run: Run ID.
        step: Completed optimizer steps.
        files: This process's files by their names in the checkpoint, which may contain slashes.
        state: Digest of the state in the files, and the data position.
        extra: Further JSON for the manifest.
        writers: Processes that call this together, each with its own files; None: only this process.
        replace: Replace a checkpoint of the step with another digest, with a warning that names both;
            otherwise it is an error.
        described: Hashes and sizes of this process's files, if they are known.

    Raises:
        CheckpointError: The step exists with another digest, and `replace` is False.
    """
    prefix = checkpoint_prefix(run, step)
    uri = store.uri(prefix.rstrip("/"))
    ref = CheckpointRef(uri=uri, step=step, digest=state.digest)
    group = writers or _Alone()
    if group.gather(_keep_or_delete(store, run, ref, replace) if group.is_rank_zero else None)[0]:
        return ref
    # The model refuses names that leave the checkpoint before anything is written.
    mine = CheckpointManifest(
        step=step,
        digest=state.digest,
        files=dict(described or map_parallel(_describe, sorted(files.items()))),
        data_position=state.data_position,
        extra=extra,
    )
    map_parallel(lambda item: store.put_file(f"{prefix}{item[0]}", item[1]), sorted(files.items()))
    every = group.gather(mine.files)
    if group.is_rank_zero:
        together = {name: file for one in every for name, file in one.items()}
        manifest = mine.model_copy(update={"files": together})
        if not store.create_json(checkpoint_manifest_key(prefix), manifest.model_dump(mode="json")):
            _refuse_another(read_manifest(store, uri), ref)
    group.gather(None)
    return ref


def prune(
    store: ObjectStore, run: str, keep: int, protected: Collection[int] = (), newest: int | None = None
) -> tuple[int, ...]:
    """Delete all but the newest `keep` complete checkpoints of a run, and the remains of older, damaged ones.

    The manifest is deleted first, so a kill in between leaves files without a manifest, never the reverse.

    Args:
        store: Object store of the checkpoints.
        run: Run ID.
        keep: Number of checkpoints to keep, at least 1.
        protected: Steps whose checkpoints are kept in addition.
        newest: Step of the newest checkpoint to consider; None for all.

    Returns:
        The steps whose files were deleted.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} must be at least 1")
    found = sizes_by_step(store, run)
    whole = (ref.step for ref in whole_checkpoints(store, run) if newest is None or ref.step <= newest)
    kept = set(itertools.islice(whole, keep))
    kept |= kept and set(protected)
    # Files of a step after the newest manifest may belong to a checkpoint that is being written.
    removed = tuple(step for step in sorted(found) if step not in kept and kept and step < max(kept))
    for step in removed:
        _delete(store, *found[step])
    return removed


def _keep_or_delete(store: ObjectStore, run: str, ref: CheckpointRef, replace: bool) -> bool:
    """Keep the step's checkpoint if it is intact and return True; delete it if it is damaged or replaced."""
    prefix, sizes = sizes_by_step(store, run).get(ref.step, ("", {}))
    if checkpoint_manifest_key("") not in sizes:
        return False
    reason = _rewrite_reason(store, ref, replace)
    if reason is None:
        return True
    _LOG.warning("written again: %s", reason)
    _delete(store, prefix, sizes)
    return False


def _rewrite_reason(store: ObjectStore, ref: CheckpointRef, replace: bool) -> str | None:
    """Return the reason why a step's checkpoint must be written again; None if it is intact."""
    try:
        present = read_manifest(store, ref.uri)
    except CheckpointError as error:
        return str(error)
    if not replace:
        _refuse_another(present, ref)
    if present.digest != ref.digest:
        return (
            f"checkpoint {ref.uri} has another state (digest {present.digest}) than this training (digest "
            f"{ref.digest}): the same run gave two results, and the newer one is kept"
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
