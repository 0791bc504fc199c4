"""Search for the newest complete checkpoint of a run, and verified downloads."""

import hashlib
import logging
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

from llava_av.checkpoints.checkpoint_manifest import (
    ADVICE,
    CheckpointError,
    CheckpointFile,
    CheckpointManifest,
    CheckpointRef,
    checkpoint_manifest_key,
    parse_checkpoint_manifest,
    run_prefix,
    step_of,
)
from llava_av.checkpoints.finite_weights import first_non_finite
from llava_av.storage import ObjectMissing, ObjectStore, file_sha256, map_parallel

__all__ = [
    "fetch_checkpoint",
    "fetched_folder",
    "has_model",
    "latest_checkpoint",
    "model_files",
    "read_manifest",
    "size_problems",
    "sizes_by_step",
    "verify_checkpoint",
    "whole_checkpoints",
]

_LOG = logging.getLogger(__name__)
_MODEL = "model/"


def latest_checkpoint(store: ObjectStore, run: str) -> CheckpointRef | None:
    """Return the newest of `whole_checkpoints`; None if there is none."""
    return next(whole_checkpoints(store, run), None)


def whole_checkpoints(store: ObjectStore, run: str) -> Iterator[CheckpointRef]:
    """Yield the complete checkpoints, newest first: those with a manifest and all its files at full size.

    A step without a manifest was interrupted and is skipped; one with a damaged manifest or file is skipped
    with a warning in the log. `fetch_checkpoint` verifies the contents.
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
            _LOG.warning("skipped: %s", error)
            continue
        problems = size_problems(manifest, sizes)
        if problems:
            _LOG.warning("skipped: checkpoint %s: %s", uri, "; ".join(problems))
        else:
            yield CheckpointRef(uri=uri, step=manifest.step, digest=manifest.digest)


def read_manifest(store: ObjectStore, uri: str) -> CheckpointManifest:
    """Read the manifest of the checkpoint at a URI.

    Raises:
        CheckpointError: There is no complete checkpoint, or its manifest is damaged.
    """
    return parse_checkpoint_manifest(_manifest_bytes(store, uri), uri)


def has_model(manifest: CheckpointManifest) -> bool:
    """Return whether a checkpoint has a model, as the last one of a run has."""
    return any(name.startswith(_MODEL) for name in manifest.files)


def model_files(manifest: CheckpointManifest, uri: str) -> list[str]:
    """Return the files of the model in a checkpoint, a Hugging Face folder `model/`.

    Raises:
        CheckpointError: The checkpoint has no model.
    """
    found = [name for name in manifest.files if name.startswith(_MODEL)]
    if not found:
        raise CheckpointError(
            f"checkpoint {uri} holds the state of a training, but no model: only the last checkpoint of a "
            f"run has one; name that, or write the model with `llava-av model export {uri} FOLDER`"
        )
    return found


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
    """Require that a checkpoint is the expected one; only one file at a time is on the local disk.

    Args:
        store: Object store of the checkpoint.
        uri: s3://BUCKET/checkpoints/RUN/step-NNNNNNNN
        digest: Digest of its state.
        manifest_sha256: SHA-256 of its manifest, which pins every file; None if it is not known yet.
        contents: Read and verify every file, too.
        only: Verify only files whose names start with this.
        finite: Refuse NaN and infinity among the weights, too.

    Returns:
        SHA-256 of its manifest, in hex.

    Raises:
        CheckpointError: It is another checkpoint, a file is missing, truncated or altered, or a weight is not
            finite; the text names it.
    """
    data = _manifest_bytes(store, uri)
    found = hashlib.sha256(data).hexdigest()
    manifest = parse_checkpoint_manifest(data, uri)
    if manifest.digest != digest:
        raise CheckpointError(
            f"checkpoint {uri} is another one: it has the digest {manifest.digest[:12]}…, not {digest[:12]}…"
        )
    if manifest_sha256 is not None and found != manifest_sha256:
        raise CheckpointError(
            f"checkpoint {uri}: manifest.json is altered (sha256 {found[:12]}…, not {manifest_sha256[:12]}…)"
        )
    files = {name: file for name, file in manifest.files.items() if name.startswith(only)}
    if contents:
        _verify_files(store, uri, files, finite=finite)
    return found


def _verify_files(store: ObjectStore, uri: str, files: Mapping[str, CheckpointFile], *, finite: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="llava-av-verify-") as folder:
        for name, file in files.items():
            path = Path(folder) / name
            _fetch_file(store, uri, Path(folder), (name, file))
            if finite:
                _require_finite(uri, name, path)
            path.unlink()


def _require_finite(uri: str, name: str, path: Path) -> None:
    weight = first_non_finite(path) if path.suffix == ".safetensors" else None
    if weight is not None:
        raise CheckpointError(
            f"checkpoint {uri}: weight {weight} in {name} has NaN or infinity because the training diverged: "
            "train again with a lower optimizer.learning_rate, or use an earlier checkpoint"
        )


def _manifest_bytes(store: ObjectStore, uri: str) -> bytes:
    try:
        return store.get_bytes(checkpoint_manifest_key(f"{store.key(uri).rstrip('/')}/"))
    except ObjectMissing:
        raise CheckpointError(
            f"no complete checkpoint at {uri} (it has no manifest.json): check the name, or train again"
        ) from None


def fetched_folder(work: Path, digest: str) -> Path:
    """Return the folder for the files of a checkpoint with a digest, below the folder for fetched models."""
    return work / "models" / digest


def fetch_checkpoint(
    store: ObjectStore, uri: str, folder: Path, names: Collection[str] | None = None
) -> CheckpointManifest:
    """Download the files of a checkpoint into a folder and verify each against the manifest.

    An existing file with the right content is reused, one with other content is replaced.

    Args:
        store: Object store of the checkpoint.
        uri: s3://BUCKET/checkpoints/RUN/step-NNNNNNNN
        folder: Folder to write to, created if necessary; files get their names in the manifest.
        names: Files to download; None for all.

    Raises:
        CheckpointError: A file is missing, truncated or altered, or a requested one is not in the manifest.
            The text names it, and the folder does not contain it.
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
            else f"truncated or altered ({size} bytes, not {expected.bytes})"
        )
        raise CheckpointError(f"checkpoint {uri}: file {name} is {fault}: {ADVICE}")


def sizes_by_step(store: ObjectStore, run: str) -> dict[int, tuple[str, dict[str, int]]]:
    """Return for each step of a run the prefix of its keys, and the size in bytes of each stored file."""
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


def size_problems(manifest: CheckpointManifest, sizes: Mapping[str, int]) -> list[str]:
    """Return a phrase for each file that is missing or has a wrong size; contents are not read."""
    return [
        f"file {name} is missing"
        if name not in sizes
        else f"file {name} has {sizes[name]} bytes, not {file.bytes}"
        for name, file in sorted(manifest.files.items())
        if sizes.get(name) != file.bytes
    ]
