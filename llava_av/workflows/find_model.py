"""Lookup of a model by any of its names, as a checkpoint in S3 that every job can read."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from llava_av.checkpoints import CheckpointState, model_files, read_manifest, write_checkpoint
from llava_av.errors import UserError
from llava_av.runs import CheckpointName, Run, TrainingResult, is_run_id
from llava_av.storage import ObjectStore, file_sha256

__all__ = ["NamedModel", "find_model"]

_CHECKPOINT = re.compile(r".*/checkpoints/([^/]+)/step-(\d+)/?")
_ID_DIGITS = 16
_REMEDY = "give a run ID, models:/NAME/VERSION, s3://… of a checkpoint, or a folder with a model"


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A checkpoint, and the run that it belongs to."""

    run: str
    step: int
    checkpoint: CheckpointName


def find_model(store: ObjectStore, model: str) -> NamedModel:
    """Return the checkpoint of a model.

    The model of a folder is written to S3 first, under a hash of its files, for jobs that run elsewhere.

    Args:
        store: Store of the runs.
        model: Run ID, `models:/NAME/VERSION` or `@ALIAS`, `s3://…` of a checkpoint, or a folder.

    Raises:
        UserError: The model does not exist, or its checkpoint was changed since it was registered.
    """
    if is_run_id(model):
        checkpoint = Run(store=store, id=model).read(TrainingResult).checkpoint
        return _at(store, checkpoint.uri, checkpoint.digest, model)
    if model.startswith("models:/"):
        from llava_av.registry.versions import load_version, require_untouched

        version = load_version(store, model)
        require_untouched(store, version, only="model/")  # The training state is not loaded.
        return _at(store, version.checkpoint_uri, version.checkpoint_digest, model)
    if model.startswith("s3://"):
        return _at(store, model.rstrip("/"), None, model)
    return _from_folder(store, model)


def _at(store: ObjectStore, uri: str, digest: str | None, model: str) -> NamedModel:
    place = _CHECKPOINT.fullmatch(uri)
    if place is None:
        raise UserError(
            f"{uri} is not the address of a checkpoint, such as s3://BUCKET/checkpoints/RUN/step-00000100"
        )
    manifest = read_manifest(store, uri)
    model_files(manifest, uri)
    found = manifest.digest
    if digest not in (None, found):
        raise UserError(
            f"{model} has the checkpoint digest {str(digest)[:12]}…, but {uri} has {found[:12]}…: "
            "the checkpoint has been replaced; train or register the run again"
        )
    return NamedModel(run=place[1], step=int(place[2]), checkpoint=CheckpointName(uri=uri, digest=found))


def _from_folder(store: ObjectStore, model: str) -> NamedModel:
    folder = next(
        (path for path in (Path(model) / "model", Path(model)) if (path / "config.json").is_file()), None
    )
    if folder is None:
        raise UserError(f"{model} does not contain or name a model: {_REMEDY}")
    files = {f"model/{path.name}": path for path in sorted(folder.iterdir()) if path.is_file()}
    hashes = "\n".join(f"{name} {file_sha256(path)}" for name, path in files.items())
    digest = hashlib.sha256(hashes.encode()).hexdigest()
    state = CheckpointState(digest=digest, data_position={})
    run = digest[:_ID_DIGITS]
    written = write_checkpoint(store, run, 0, files, state, extra={"from": "a folder"})
    return NamedModel(run=run, step=0, checkpoint=CheckpointName(uri=written.uri, digest=digest))
