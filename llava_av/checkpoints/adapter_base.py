"""Base model of an adapter, which the adapter's folder names by address and digest."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field, ValidationError

from llava_av.checkpoints.base_model import fetch_base
from llava_av.checkpoints.checkpoint_manifest import CheckpointError
from llava_av.checkpoints.fetching import fetch_checkpoint, read_manifest
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectStore

__all__ = ["AdapterBase", "base_in_store", "fetch_adapter_base", "stored_adapter_base"]

_FILE = "base.json"
_CHECKPOINT = re.compile(r"s3://[^/]+/checkpoints/[^/]+/step-\d+/?")


class AdapterBase(FrozenModel):
    """Content of `base.json`."""

    address: str = Field(min_length=1)
    """Address of the base model, as in `model.base` of a recipe."""
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the base model's files."""

    def write(self, folder: Path) -> None:
        """Write the file into the folder of an adapter."""
        (folder / _FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def base_in_store(folder: Path) -> str | None:
    """Return the address of the base model of an adapter if it is in S3; None for any other folder."""
    base = _read(folder / _FILE)
    return base.address if base is not None and base.address.startswith("s3://") else None


def fetch_adapter_base(folder: Path, work: Path) -> Path | None:
    """Return the local folder of the base model of an adapter; None if a folder has a whole model.

    Args:
        folder: Folder of a model or of an adapter.
        work: Folder for downloaded models.

    Raises:
        CheckpointError: The base model is not at its address, or is not the one of the adapter's training.
    """
    base = _read(folder / _FILE)
    return None if base is None else fetch_base(base.address, base.digest, work)


def stored_adapter_base(store: ObjectStore, uri: str) -> str | None:
    """Return the address of the base model if a checkpoint's model is an adapter; None otherwise.

    Args:
        store: Object store of the checkpoint.
        uri: s3://BUCKET/checkpoints/RUN/step-NNNNNNNN

    Raises:
        CheckpointError: The checkpoint is missing or damaged, or names something in S3 that is no checkpoint.
    """
    name = f"model/{_FILE}"
    if name not in read_manifest(store, uri).files:
        return None
    with TemporaryDirectory(prefix="llava-av-adapter-") as folder:
        fetch_checkpoint(store, uri, Path(folder), [name])
        base = _read(Path(folder) / name)
    assert base is not None, "a fetched file exists"
    # Jobs get the right to read below this address.
    if base.address.startswith("s3://") and not _CHECKPOINT.fullmatch(base.address):
        raise CheckpointError(
            f"{uri}: {name} names the base model {base.address!r}, which is not the address of a checkpoint, "
            "such as s3://BUCKET/checkpoints/base-NAME/step-00000000: write the adapter's folder again"
        )
    return base.address


def _read(path: Path) -> AdapterBase | None:
    if not path.is_file():
        return None
    try:
        return AdapterBase.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise CheckpointError(
            f"{path} does not name a base model ({problem}): copy the folder again"
        ) from None
