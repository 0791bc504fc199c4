"""The model that a training starts from: found by address, identified by its files, fetched and verified."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from llava_av.checkpoints.manifest import CheckpointError, CheckpointRef, CheckpointState
from llava_av.checkpoints.reading import fetch_checkpoint, read_manifest
from llava_av.checkpoints.writing import write_checkpoint
from llava_av.storage import ObjectStore, file_sha256, map_parallel

__all__ = ["base_digest", "base_folder", "fetch_base", "push_base"]

_MODEL = "model/"


def base_digest(address: str) -> str:
    """sha256 over names and contents of a model's files, in hex; the same wherever the files lie.

    Args:
        address: a folder (of a volume, or a Hugging Face cache's snapshot), or `s3://…` of a checkpoint.

    Raises:
        CheckpointError: there is no model at this address.
    """
    if address.startswith("s3://"):
        files = read_manifest(ObjectStore.from_env(), address).files
        names = {name.removeprefix(_MODEL): one.sha256 for name, one in files.items() if _is_model(name)}
    else:
        folder = _folder(address)
        paths = _paths(folder)
        names = dict(zip(paths, map_parallel(file_sha256, paths.values()), strict=True))
    if "config.json" not in names:
        raise CheckpointError(f"{address} holds no model (it has no config.json): name a model's folder")
    return _digest(names)


def fetch_base(address: str, digest: str, work: Path) -> Path:
    """The local folder of a base model.

    Args:
        address: as for `base_digest`.
        digest: what `base_digest` gave when the run was opened.
        work: where fetched models are kept.

    Raises:
        CheckpointError: there is no model at this address, or another one by now.
    """
    found = base_digest(address)
    if found != digest:
        raise CheckpointError(
            f"{address} is another model than this run was opened with: its files have the digest "
            f"{found[:12]}…, the run's {digest[:12]}…; open a new run"
        )
    folder = base_folder(address, digest, work)
    if address.startswith("s3://"):
        store = ObjectStore.from_env()
        names = [name for name in read_manifest(store, address).files if _is_model(name)]
        fetch_checkpoint(store, address, folder.parent, names)
    return folder


def base_folder(address: str, digest: str, work: Path) -> Path:
    """Where `fetch_base` leaves a base model, for the other processes of its node.

    Raises:
        CheckpointError: the address is a folder that is not there.
    """
    if address.startswith("s3://"):
        return work / "bases" / digest / "model"
    return _folder(address)


def push_base(store: ObjectStore, folder: Path, name: str) -> CheckpointRef:
    """Puts a model's folder into S3, whole or not at all.

    Args:
        store: where to.
        folder: a model's folder.
        name: letters, digits, dots, dashes and underscores; it becomes part of the address.

    Raises:
        CheckpointError: no model in the folder, or another model of that name in S3.
    """
    digest = base_digest(str(folder))
    files = {f"{_MODEL}{relative}": path for relative, path in _paths(folder).items()}
    state = CheckpointState(digest=digest, data_position={})
    return write_checkpoint(store, f"base-{name}", 0, files, state, extra={"base": name})


def _folder(address: str) -> Path:
    folder = Path(address)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {address} here: name one that every process sees, or put the model into S3 "
            "with `llava-av model push`"
        )
    return folder


def _paths(folder: Path) -> dict[str, Path]:
    """Files by their names within the folder; hidden ones are no part of a model."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: path for name, path in found.items() if not any(p.startswith(".") for p in Path(name).parts)
    }


def _is_model(name: str) -> bool:
    return name.startswith(_MODEL)


def _digest(names: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(names), sort_keys=True).encode()).hexdigest()
