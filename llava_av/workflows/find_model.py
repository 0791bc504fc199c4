"""A model by any of its names, as a checkpoint in S3 that every job can read."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from llava_av.checkpoints import CheckpointState, read_manifest, write_checkpoint
from llava_av.errors import UserError
from llava_av.evaluation.work import CheckpointName
from llava_av.storage import ObjectStore, file_sha256
from llava_av.workflows.runs import TRAIN_COMMAND, Run

__all__ = ["NamedModel", "find_model"]

_RUN = re.compile(r"[0-9a-f]{16}")
_CHECKPOINT = re.compile(r".*/checkpoints/([^/]+)/step-(\d+)/?")
_KEY_DIGITS = 16
_HOW = "give a run's key, models:/NAME/VERSION, s3://… of a checkpoint, or a folder with a model"


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A checkpoint, and the run that it is kept under."""

    run: str
    step: int
    checkpoint: CheckpointName


def find_model(store: ObjectStore, model: str) -> NamedModel:
    """The checkpoint that a name stands for.

    A folder's model is put into S3 first, under a key that is a hash of its files, for jobs run elsewhere.

    Args:
        store: Where runs are.
        model: Run key, `models:/NAME/VERSION` or `@ALIAS`, `s3://…` of a checkpoint, or a folder.

    Raises:
        UserError: there is no such model, or its checkpoint was changed since it was registered.
    """
    if _RUN.fullmatch(model):
        train = Run(store=store, key=model).read("train.json", made_by=TRAIN_COMMAND)
        return _at(store, train["checkpoint"]["uri"], train["checkpoint"]["digest"], model)
    if model.startswith("models:/"):
        from llava_av.registry.versions import load_version, require_untouched

        version = load_version(store, model)
        require_untouched(store, version, only="model/")  # of a training's state nothing is loaded
        return _at(store, version.checkpoint_uri, version.checkpoint_digest, model)
    if model.startswith("s3://"):
        return _at(store, model.rstrip("/"), None, model)
    return _from_folder(store, model)


def _at(store: ObjectStore, uri: str, digest: str | None, model: str) -> NamedModel:
    place = _CHECKPOINT.fullmatch(uri)
    if place is None:
        raise UserError(
            f"{uri} is no address of a checkpoint, such as s3://BUCKET/checkpoints/RUN/step-00000100"
        )
    found = read_manifest(store, uri).digest
    if digest not in (None, found):
        raise UserError(
            f"{model} stands for a checkpoint of digest {str(digest)[:12]}…, but {uri} has {found[:12]}…: "
            "it was replaced since; train or register again"
        )
    return NamedModel(run=place[1], step=int(place[2]), checkpoint=CheckpointName(uri=uri, digest=found))


def _from_folder(store: ObjectStore, model: str) -> NamedModel:
    folder = next(
        (path for path in (Path(model) / "model", Path(model)) if (path / "config.json").is_file()), None
    )
    if folder is None:
        raise UserError(f"{model} holds no model and names none; {_HOW}")
    files = {f"model/{path.name}": path for path in sorted(folder.iterdir()) if path.is_file()}
    hashes = "\n".join(f"{name} {file_sha256(path)}" for name, path in files.items())
    digest = hashlib.sha256(hashes.encode()).hexdigest()
    state = CheckpointState(digest=digest, data_position={})
    run = digest[:_KEY_DIGITS]
    written = write_checkpoint(store, run, 0, files, state, extra={"from": "a folder"})
    return NamedModel(run=run, step=0, checkpoint=CheckpointName(uri=written.uri, digest=digest))
