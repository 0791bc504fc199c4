"""Whole models written as folders: merged, in another dtype, and with the code that loads them."""

import json
from pathlib import Path

import torch

from llava_av.errors import UserError
from llava_av.model.adapters import merge_adapter
from llava_av.model.loading.saved_model import load_saved_model
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.processing import LlavaAvProcessor

__all__ = ["SHARD_SIZE", "add_auto_classes", "load_whole_model", "save_whole_model"]

SHARD_SIZE = "5GB"
"""Size above which a file of weights is split."""
_CODE = {
    "modeling_llava_av.py": '''"""Config and model of this folder: pip install 'llava-av[train]'."""

from llava_av.model import LlavaAvConfig, LlavaAvForConditionalGeneration
''',
    "processing_llava_av.py": '''"""Processor of this folder: pip install 'llava-av[train]'."""

from llava_av.model import LlavaAvProcessor
''',
}
_AUTO_MAPS = {
    "config.json": {
        "AutoConfig": "modeling_llava_av.LlavaAvConfig",
        "AutoModelForImageTextToText": "modeling_llava_av.LlavaAvForConditionalGeneration",
    },
    "processor_config.json": {"AutoProcessor": "processing_llava_av.LlavaAvProcessor"},
}


def load_whole_model(
    folder: Path, base: Path | None = None, *, dtype: torch.dtype | None = None
) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Read a model, merge its adapter in float32, and convert the weights.

    Args:
        folder: Folder of a whole model, or of an adapter.
        base: Folder of the base model of an adapter; None for a whole model.
        dtype: Type of the weights; None for that of the model's training.

    Raises:
        ModelFilesError: The folder is incomplete, or the adapter does not fit the base model.
        UserError: A merged or converted weight would not be finite.
    """
    model, processor = load_saved_model(folder, base, dtype=torch.float32 if base is not None else None)
    if base is not None:
        merge_adapter(model)
    # The config is that of the adapter's folder.
    chosen = dtype or processor.config.dtype or torch.float32
    model.to(chosen)  # type: ignore[arg-type]
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise UserError(f"weight {name} is not finite in {chosen}: choose a dtype with a larger range")
    model.config.dtype = processor.config.dtype = chosen
    return model, processor


def save_whole_model(
    model: LlavaAvForConditionalGeneration, processor: LlavaAvProcessor, target: Path
) -> None:
    """Write a model's folder, with its weights in shards."""
    model.save_pretrained(target, max_shard_size=SHARD_SIZE)
    processor.save_pretrained(target)


def add_auto_classes(folder: Path) -> None:
    """Let the auto classes of transformers load a model's folder with `trust_remote_code=True`.

    The code is an import of this package, so that it does not become outdated in the folder.
    """
    for name, text in _CODE.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, classes in _AUTO_MAPS.items():
        path = folder / name
        settings = json.loads(path.read_text(encoding="utf-8")) | {"auto_map": classes}
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
