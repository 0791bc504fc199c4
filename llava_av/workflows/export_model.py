"""Export of a trained model as a Hugging Face folder, with its model card and lineage."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from llava_av.checkpoints import fetch_adapter_base
from llava_av.errors import UserError
from llava_av.inference.devices import DTYPES
from llava_av.inference.model_source import local_model_folder
from llava_av.model.adapters import ADAPTER_CONFIG
from llava_av.model.conversion.to_released import write_released_model
from llava_av.model.files.folder_checks import require_empty
from llava_av.model.loading.writing import add_auto_classes, load_whole_model, save_whole_model
from llava_av.registry.versions import load_version
from llava_av.runs import Lineage, Run, TrainingResult, is_run_id
from llava_av.runs.names import MODEL_CARD
from llava_av.runs.registration import run_of
from llava_av.storage import ObjectMissing, ObjectStore
from llava_av.workflows.runtime.target_folder import copy_folder, whole_folder
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["ExportOptions", "export_model", "is_remote"]

_CARD = "README.md"
_FRONT = "---\n"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a model is written."""

    merge_adapter: bool = False
    """True to merge an adapter into its base model; a whole model is written as it is."""
    released: bool = False
    """True for the format of transformers' own LLaVA classes."""
    dtype: str | None = None
    """Name in `devices.DTYPES` of the type of the weights; None for that of the training."""
    license: str | None = None
    """Licence of the weights for the model card, as the Hugging Face Hub names it."""


_AS_IT_IS = ExportOptions()


def is_remote(source: str) -> bool:
    """Return whether a model is in S3: a run ID, `s3://…` or `models:/…`."""
    return source.startswith(("s3://", "models:/")) or is_run_id(source)


def export_model(workspace: Workspace, source: str, target: Path, options: ExportOptions = _AS_IT_IS) -> str:
    """Write a model's folder; return its kind, such as `model`, `adapter` or `merged model`.

    Args:
        workspace: Folder for fetched models.
        source: Run ID, `models:/NAME/VERSION` or `@ALIAS`, `s3://…` of a checkpoint, or a folder.
        target: Folder to create; must be empty if it exists.
        options: How the model is written.

    Raises:
        UserError: The model or its base model does not exist or is damaged, the options do not fit it, or the
            target is not empty or cannot be written.
    """
    require_empty(target)
    run, address = _located(source) if is_remote(source) else (None, source)
    folder = local_model_folder(address, workspace.work)
    # An adapter alone is copied without its base model, which may be large or elsewhere.
    base = fetch_adapter_base(folder, workspace.work) if options.merge_adapter else None
    with whole_folder(target):
        kind = _write(folder, base, target, options)
        if run is not None:
            _add_documents(run, target)
        if options.license is not None:
            _state_license(target / _CARD, options.license)
    return kind


def _located(source: str) -> tuple[Run | None, str]:
    """Return the run of a model in S3, if it has one, and its address, which does not follow an alias."""
    store = ObjectStore.from_env()
    if is_run_id(source):
        run = Run(store=store, id=source)
        return run, run.read(TrainingResult).checkpoint.uri
    if source.startswith("models:/"):
        registered = load_version(store, source)
        name, source = registered.run, registered.uri
    else:
        name = run_of(None, source)
    return Run(store=store, id=name) if name else None, source


def _write(folder: Path, base: Path | None, target: Path, options: ExportOptions) -> str:
    is_adapter = (folder / ADAPTER_CONFIG).is_file() and base is None
    if is_adapter and (options.released or options.dtype):
        raise UserError(
            "an adapter alone is written as it is: add --merge-adapter, or leave out --released and --dtype"
        )
    if base is None and not options.released and options.dtype is None:
        copy_folder(folder, target)
    else:
        dtype = None if options.dtype is None else DTYPES[options.dtype]
        model, processor = load_whole_model(folder, base, dtype=dtype)
        if options.released:
            return write_released_model(model, processor, target)
        save_whole_model(model, processor, target)
    if is_adapter:
        return "adapter"
    add_auto_classes(target)
    return "model" if base is None else "merged model"


def _add_documents(run: Run, target: Path) -> None:
    """Write the lineage and the model card, as far as the run has them."""
    lineage = run.find(Lineage)
    if lineage is not None:
        (target / Lineage.NAME).write_text(json.dumps(lineage.to_json(), indent=2) + "\n", encoding="utf-8")
    with contextlib.suppress(ObjectMissing):
        (target / _CARD).write_bytes(run.store.get_sealed(run.path(MODEL_CARD)))


def _state_license(card: Path, license_name: str) -> None:
    """Write the licence into the front matter of a card, in place of another one, or into a new card."""
    text = card.read_text(encoding="utf-8") if card.exists() else f"{_FRONT}library_name: llava-av\n{_FRONT}"
    front, mark, rest = text.removeprefix(_FRONT).partition(f"\n{_FRONT}")
    if not text.startswith(_FRONT) or not mark:
        front, rest = "", text
    kept = "".join(f"{line}\n" for line in front.splitlines() if not line.startswith("license:"))
    stated = yaml.safe_dump({"license": license_name}, allow_unicode=True)
    card.write_text(f"{_FRONT}{stated}{kept}{_FRONT}{rest}", encoding="utf-8")
