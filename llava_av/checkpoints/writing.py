"""Writing a checkpoint so that a kill at any moment leaves a whole one or none, and removing old ones."""

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
    checkpoint_prefix,
    manifest_key,
)
from llava_av.checkpoints.reading import faults, read_manifest, sizes_by_step
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
) -> CheckpointRef:
    """Uploads the files of a checkpoint, then the manifest that makes it one.

    A step has one state: if it is there already with the same digest, nothing is uploaded; if files of it
    were lost since, it is written anew. A run has one writer, or one group of writers, at a time.

    Args:
        store: Where to write.
        run: Run key.
        step: Optimizer steps done.
        files: This process's files by their name in the checkpoint; names may hold slashes.
        state: Digest of the state in the files, and the data position.
        extra: JSON that the manifest carries along.
        writers: The processes that call this together, each with its own files; None: this one alone.

    Raises:
        CheckpointError: The step exists with another digest.
    """
    prefix = checkpoint_prefix(run, step)
    uri = store.uri(prefix.rstrip("/"))
    ref = CheckpointRef(uri=uri, step=step, digest=state.digest)
    group = writers or _Alone()
    if group.gather(_is_there(store, run, ref) if group.first else None)[0]:
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
        if not store.create_json(manifest_key(prefix), manifest.model_dump(mode="json")):
            _refuse_another(read_manifest(store, uri), ref)
    group.gather(None)
    return ref


def prune(store: ObjectStore, run: str, keep: int) -> tuple[int, ...]:
    """Deletes all but the newest `keep` checkpoints of a run, and what older, cut short ones left behind.

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
    whole = sorted(step for step, (_, sizes) in found.items() if manifest_key("") in sizes)
    kept = set(whole[-keep:])
    # Files of a step after the newest manifest may be those of a checkpoint that is being written.
    removed = tuple(step for step in sorted(found) if step not in kept and kept and step < max(kept))
    for step in removed:
        _delete(store, *found[step])
    return removed


def _is_there(store: ObjectStore, run: str, ref: CheckpointRef) -> bool:
    """Whether the step is whole already; a damaged one loses its manifest, so that it can be written anew."""
    prefix, sizes = sizes_by_step(store, run).get(ref.step, ("", {}))
    if manifest_key("") not in sizes:
        return False
    try:
        manifest = read_manifest(store, ref.uri)
    except CheckpointError as error:
        wrong = [str(error)]
    else:
        _refuse_another(manifest, ref)
        wrong = faults(manifest, sizes)
    if not wrong:
        return True
    _LOG.warning("written anew: checkpoint %s: %s", ref.uri, "; ".join(wrong))
    store.delete(manifest_key(prefix))
    return False


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
    if manifest_key("") in sizes:
        store.delete(manifest_key(prefix))
    names = [name for name in sizes if name != manifest_key("")]
    map_parallel(lambda name: store.delete(prefix + name), names)
