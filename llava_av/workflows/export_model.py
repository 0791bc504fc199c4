"""Export of a trained model as a Hugging Face folder: a whole model, an adapter, or both merged."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from llava_av.checkpoints import fetch_adapter_base
from llava_av.errors import UserError
from llava_av.inference.model_source import local_model_folder
from llava_av.model.adapters import ADAPTER_CONFIG
from llava_av.model.files.folder_checks import require_empty
from llava_av.model.loading.merged_model import write_merged_model
from llava_av.runs import Run, TrainingResult, is_run_id
from llava_av.storage import ObjectStore
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["export_model", "is_remote"]


def is_remote(source: str) -> bool:
    """Return whether a model is in S3: a run ID, `s3://…` or `models:/…`."""
    return source.startswith(("s3://", "models:/")) or is_run_id(source)


def export_model(workspace: Workspace, source: str, target: Path, *, merged: bool = False) -> str:
    """Write a model's folder; return its kind: `model`, `adapter` or `merged model`.

    Args:
        workspace: Folder for fetched models.
        source: Run ID, `models:/NAME/VERSION` or `@ALIAS`, `s3://…` of a checkpoint, or a folder.
        target: Folder to create; must be empty if it exists.
        merged: True to merge an adapter into its base model; a whole model is written as it is.

    Raises:
        UserError: The model or its base model does not exist or is damaged, or the target is not empty or
            cannot be written.
    """
    require_empty(target)
    if is_run_id(source):
        source = Run(store=ObjectStore.from_env(), id=source).read(TrainingResult).checkpoint.uri
    folder = local_model_folder(source, workspace.work)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    # An adapter alone is copied without its base model, which may be large or elsewhere.
    base = fetch_adapter_base(folder, workspace.work) if merged else None
    with _whole_folder(target):
        if base is not None:
            write_merged_model(folder, base, target)
            return "merged model"
        for file in sorted(folder.iterdir()):
            if file.is_file():
                shutil.copyfile(file, target / file.name)
    return "adapter" if is_adapter else "model"


@contextlib.contextmanager
def _whole_folder(target: Path) -> Iterator[None]:
    """Create the target, unless it is there already and empty; empty it if the block fails."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for path in target.iterdir() if target.is_dir() else ():
            path.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise UserError(f"cannot write {target}: {reason}; choose another folder") from error
        raise
