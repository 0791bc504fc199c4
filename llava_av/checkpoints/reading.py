"""Finding the newest whole checkpoint of a run, and fetching one with every byte verified."""

import hashlib
import logging
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from llava_av.checkpoints.finite_weights import first_non_finite
from llava_av.checkpoints.manifest import (
    ADVICE,
    CheckpointError,
    CheckpointFile,
    CheckpointManifest,
    CheckpointRef,
    checkpoint_manifest_key,
    parse_manifest,
    run_prefix,
    step_of,
)
from llava_av.storage import ObjectMissing, ObjectStore, file_sha256, map_parallel

__all__ = [
    "faults",
    "fetch_checkpoint",
    "latest_checkpoint",
    "read_manifest",
    "sizes_by_step",
    "verify_checkpoint",
    "whole_checkpoints",
]

_LOG = logging.getLogger(__name__)


def latest_checkpoint(store: ObjectStore, run: str) -> CheckpointRef | None:
    """Return the newest of `whole_checkpoints`; None if there is none."""
    return next(whole_checkpoints(store, run), None)


def whole_checkpoints(store: ObjectStore, run: str) -> Iterator[CheckpointRef]:
    """Yield the checkpoints that are whole, newest first: a manifest, and each of its files at its full size.

    A step without a manifest was cut short and is passed over; one whose manifest or files are damaged is
    passed over with a warning in the log. Contents are verified by `fetch_checkpoint`.
    """
    found = sizes_by_step(store, run)
    for step in sorted(found, reverse=True):
        prefix, sizes = found[step]
        if checkpoint_manifest_key("") not in sizes:
            continue
        uri = store.uri(prefix.rstrip("/"))
        try:
            manifest = read_manifest(store, uri)
        except CheckpointError as error:
            _LOG.warning("passed over: %s", error)
            continue
        wrong = faults(manifest, sizes)
        if wrong:
            _LOG.warning("passed over: checkpoint %s: %s", uri, "; ".join(wrong))
        else:
            yield CheckpointRef(uri=uri, step=manifest.step, digest=manifest.digest)


def read_manifest(store: ObjectStore, uri: str) -> CheckpointManifest:
    """Reads the manifest of the checkpoint at a URI.

    Raises:
        CheckpointError: There is no whole checkpoint, or its manifest is damaged.
    """
    return parse_manifest(_manifest_bytes(store, uri), uri)


def verify_checkpoint(
    store: ObjectStore,
    uri: str,
    *,
    digest: str,
    manifest_sha256: str | None = None,
    contents: bool = True,
    only: str = "",
    finite: bool = False,
) -> str:
    """Requires that a checkpoint is the one that it is taken for; one file at a time lies on this machine.

    Args:
        store: Where the checkpoint is.
        uri: s3://BUCKET/checkpoints/RUN/step-NNNNNNNN
        digest: Of its state.
        manifest_sha256: Of the bytes of its manifest, which pins every file; None if it is not known yet.
        contents: Whether to read every file, too.
        only: Of the files those that are read, by how their names begin.
        finite: Whether NaN or infinity among the weights is an error, too.

    Returns:
        sha256 of the bytes of its manifest, in hex.

    Raises:
        CheckpointError: It is another one, or a file is missing, cut short or altered; the text says which.
        CheckpointError: A weight is not finite, by name.
    """
    data = _manifest_bytes(store, uri)
    found = hashlib.sha256(data).hexdigest()
    manifest = parse_manifest(data, uri)
    if manifest.digest != digest:
        raise CheckpointError(
            f"checkpoint {uri} is another one: it has the digest {manifest.digest[:12]}…, not {digest[:12]}…"
        )
    if manifest_sha256 is not None and found != manifest_sha256:
        raise CheckpointError(
            f"checkpoint {uri}: manifest.json is altered (sha256 {found[:12]}…, not {manifest_sha256[:12]}…)"
        )
    if contents:
        with tempfile.TemporaryDirectory(prefix="llava-av-verify-") as folder:
            for item in manifest.files.items():
                if item[0].startswith(only):
                    path = Path(folder) / item[0]
                    _fetch_file(store, uri, Path(folder), item)
                    if finite:
                        _require_finite(uri, item[0], path)
                    path.unlink()
    return found


def _require_finite(uri: str, name: str, path: Path) -> None:
    weight = first_non_finite(path) if path.suffix == ".safetensors" else None
    if weight is not None:
        raise CheckpointError(
            f"checkpoint {uri}: weight {weight} in {name} holds NaN or infinity, as the training diverged: "
            "train again with a lower optimizer.learning_rate, or use an earlier checkpoint"
        )


def _manifest_bytes(store: ObjectStore, uri: str) -> bytes:
    try:
        return store.get_bytes(checkpoint_manifest_key(f"{store.key(uri).rstrip('/')}/"))
    except ObjectMissing:
        raise CheckpointError(
            f"no whole checkpoint at {uri} (it has no manifest.json): check the name, or train again"
        ) from None


def fetch_checkpoint(
    store: ObjectStore, uri: str, folder: Path, names: Collection[str] | None = None
) -> CheckpointManifest:
    """Copies the files of a checkpoint into a folder and verifies each against the manifest.

    A file that is already there with the right content is not fetched again; a wrong one is replaced.

    Args:
        store: Where the checkpoint is.
        uri: s3://BUCKET/checkpoints/RUN/step-NNNNNNNN
        folder: Made if need be; files get their names in the manifest.
        names: The files wanted; None for all.

    Raises:
        CheckpointError: A file is missing, cut short or altered, or a wanted one is not in the manifest. The
            text names it, and the folder does not hold it.
    """
    manifest = read_manifest(store, uri)
    wanted = manifest.files if names is None else {name: _entry(manifest, uri, name) for name in names}
    map_parallel(partial(_fetch_file, store, uri, folder), wanted.items())
    return manifest


def _entry(manifest: CheckpointManifest, uri: str, name: str) -> CheckpointFile:
    if name not in manifest.files:
        raise CheckpointError(
            f"checkpoint {uri} has no file {name}; it has {', '.join(sorted(manifest.files))}"
        )
    return manifest.files[name]


def _fetch_file(store: ObjectStore, uri: str, folder: Path, item: tuple[str, CheckpointFile]) -> None:
    name, expected = item
    path = folder / name
    if path.is_file() and path.stat().st_size == expected.bytes and file_sha256(path) == expected.sha256:
        return
    path.unlink(missing_ok=True)
    try:
        key = f"{store.key(uri).rstrip('/')}/{name}"
        sha256 = store.get_file(key, path, sha256=expected.sha256)
    except ObjectMissing:
        raise CheckpointError(f"checkpoint {uri}: file {name} is missing: {ADVICE}") from None
    if sha256 != expected.sha256:
        size = path.stat().st_size
        path.unlink()
        fault = (
            "altered"
            if size == expected.bytes
            else f"cut short or altered ({size} bytes, not {expected.bytes})"
        )
        raise CheckpointError(f"checkpoint {uri}: file {name} is {fault}: {ADVICE}")


def sizes_by_step(store: ObjectStore, run: str) -> dict[int, tuple[str, dict[str, int]]]:
    """For each step of a run: the prefix of its keys, and the size in bytes of each file that is there."""
    found: dict[int, tuple[str, dict[str, int]]] = {}
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    root = run_prefix(run)
    for info in store.list(root):
        step = step_of(run, info.key)
        if step is not None:
            prefix = root + info.key.removeprefix(root).split("/")[0] + "/"
            sizes[prefix][info.key.removeprefix(prefix)] = info.size
            found[step] = (prefix, sizes[prefix])
    return found


def faults(manifest: CheckpointManifest, sizes: dict[str, int]) -> list[str]:
    """What is wrong with the files that are there, one phrase each; contents are not looked at."""
    return [
        f"file {name} is missing"
        if name not in sizes
        else f"file {name} has {sizes[name]} bytes, not {file.bytes}"
        for name, file in sorted(manifest.files.items())
        if sizes.get(name) != file.bytes
    ]
