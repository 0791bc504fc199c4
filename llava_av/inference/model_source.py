"""Local folder of a trained model, from a path, `s3://…` or `models:/…`."""

import shutil
from pathlib import Path

from llava_av.checkpoints import fetch_checkpoint, fetched_folder, has_model, model_files, read_manifest
from llava_av.errors import UserError
from llava_av.model.files.folder_checks import require_folder, require_llava_av
from llava_av.registry.versions import load_version, require_untouched
from llava_av.runs import Run
from llava_av.runs.registration import run_of
from llava_av.storage import ObjectStore

__all__ = ["local_model_folder"]

_MODEL = "model"


def local_model_folder(source: str, work: Path) -> Path:
    """Return the local folder of a model; fetch and verify a remote model first.

    Args:
        source: A folder, `s3://…` of a checkpoint, or `models:/NAME@ALIAS` or `models:/NAME/VERSION`. Of a
            checkpoint without a model, the model is built from its state.
        work: Folder for fetched models.

    Raises:
        UserError: There is no such model, or it is damaged.
    """
    if source.startswith("models:/"):
        store = ObjectStore.from_env()
        version = load_version(store, source)
        # fetching verifies each file of the model against this manifest
        require_untouched(store, version, contents=False)
        source = version.checkpoint_uri
    if source.startswith("s3://"):
        return _fetched(source, work)
    if not Path(source).is_dir():
        raise UserError(
            f"{source}: no such folder; give the folder of a model, s3://… of a checkpoint or "
            "models:/NAME@ALIAS"
        )
    of_checkpoint = Path(source) / _MODEL
    folder = of_checkpoint if (of_checkpoint / "config.json").is_file() else Path(source)
    require_folder(folder)
    require_llava_av(folder)
    return folder


def _fetched(uri: str, work: Path) -> Path:
    store = ObjectStore.from_env()
    manifest = read_manifest(store, uri)
    folder = fetched_folder(work, manifest.digest)
    if has_model(manifest):
        fetch_checkpoint(store, uri, folder, model_files(manifest, uri))
    elif not (folder / _MODEL).is_dir():
        _rebuild(store, uri, work, folder / _MODEL)
    return folder / _MODEL


def _rebuild(store: ObjectStore, uri: str, work: Path, target: Path) -> None:
    """Write the model of a checkpoint that holds the training state alone."""
    # Training is imported only where its state is needed.
    from llava_av.training.rebuilding import rebuild_model

    run = run_of(None, uri)
    if run is None:
        raise UserError(f"{uri} has no model, and is not the checkpoint of a run: give s3://… of one")
    unfinished = target.with_name("model.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    rebuild_model(Run(store=store, id=run), uri, work, unfinished)
    unfinished.rename(target)
