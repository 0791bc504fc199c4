"""Base model of a training: its address, its identity by files, and its download."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from llava_av.checkpoints.checkpoint_manifest import CheckpointError, CheckpointRef, CheckpointState
from llava_av.checkpoints.fetching import fetch_checkpoint, model_files, read_manifest
from llava_av.checkpoints.writing import write_checkpoint
from llava_av.storage import ObjectStore, file_sha256, map_parallel

__all__ = ["base_digest", "base_folder", "fetch_base", "folder_digest", "push_base", "read_base_config"]

_MODEL = "model/"
_CONFIG = "config.json"


def base_digest(address: str) -> str:
    """Return the SHA-256 of names and contents of a model's files, in hex; it does not depend on the address.

    Args:
        address: Folder (of a volume, or a snapshot in a Hugging Face cache), or `s3://…` of a checkpoint.

    Raises:
        CheckpointError: There is no model at this address.
    """
    if address.startswith("s3://"):
        manifest = read_manifest(ObjectStore.from_env(), address)
        found = model_files(manifest, address)
        names = {name.removeprefix(_MODEL): manifest.files[name].sha256 for name in found}
    else:
        names = _hashed(_folder(address))
    if "adapter_config.json" in names:
        raise CheckpointError(
            f"{address} contains an adapter, which cannot be a base model: merge it with `llava-av model "
            "export --merge-adapter`, and name the merged model's folder"
        )
    if _CONFIG not in names:
        raise CheckpointError(f"{address} contains no model (no {_CONFIG}): name a model's folder")
    return _digest(names)


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 of names and contents of the files of any model's folder, also of an adapter's."""
    return _digest(_hashed(folder))


def read_base_config(address: str) -> dict[str, object]:
    """Return the content of a base model's config.json.

    Args:
        address: As for `base_digest`.

    Raises:
        CheckpointError: There is no model at this address, or its config.json is not a JSON object.
    """
    with TemporaryDirectory(prefix="llava-av-config-") as work:
        folder = base_folder(address, "", Path(work))
        if address.startswith("s3://"):
            fetch_checkpoint(ObjectStore.from_env(), address, folder.parent, [f"{_MODEL}{_CONFIG}"])
        try:
            found = json.loads((folder / _CONFIG).read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{address}: {_CONFIG} cannot be read: {error}; copy the model again"
            ) from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{address}: {_CONFIG} is not a JSON object; copy the model again")
    return found


def fetch_base(address: str, digest: str, work: Path) -> Path:
    """Return the local folder of a base model; download it if its address is in S3.

    Args:
        address: As for `base_digest`.
        digest: Result of `base_digest` when the run was opened.
        work: Folder for downloaded models.

    Raises:
        CheckpointError: There is no model at this address, or it has changed since the run was opened.
    """
    found = base_digest(address)
    if found != digest:
        raise CheckpointError(
            f"{address} is not the model with which this run was opened: its files have the "
            f"digest {found[:12]}…, not {digest[:12]}…; open a new run"
        )
    folder = base_folder(address, digest, work)
    if address.startswith("s3://"):
        store = ObjectStore.from_env()
        names = model_files(read_manifest(store, address), address)
        fetch_checkpoint(store, address, folder.parent, names)
    return folder


def base_folder(address: str, digest: str, work: Path) -> Path:
    """Return the folder into which `fetch_base` downloads a base model, for other processes of the node.

    Raises:
        CheckpointError: The address is a folder that does not exist.
    """
    if address.startswith("s3://"):
        return work / "bases" / digest / "model"
    return _folder(address)


def push_base(store: ObjectStore, folder: Path, name: str) -> CheckpointRef:
    """Upload a model's folder to S3, completely or not at all.

    Args:
        store: Object store to write to.
        folder: Folder of the model.
        name: Letters, digits, dots, dashes and underscores; part of the address.

    Raises:
        CheckpointError: The folder contains no model, or S3 has another model of that name.
    """
    digest = base_digest(str(folder))
    files = {f"{_MODEL}{relative}": path for relative, path in _paths(folder).items()}
    state = CheckpointState(digest=digest, data_position={})
    return write_checkpoint(store, f"base-{name}", 0, files, state, extra={"base": name})


def _folder(address: str) -> Path:
    folder = Path(address)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {address} on this machine: name one that every process can read, or upload "
            "the model to S3 with `llava-av model push`"
        )
    return folder


def _paths(folder: Path) -> dict[str, Path]:
    """Return the files by their names in the folder; hidden files are not part of a model."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: path for name, path in found.items() if not any(p.startswith(".") for p in Path(name).parts)
    }


def _hashed(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its name."""
    paths = _paths(folder)
    return dict(zip(paths, map_parallel(file_sha256, paths.values()), strict=True))


def _digest(names: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(names), sort_keys=True).encode()).hexdigest()
