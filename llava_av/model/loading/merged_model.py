"""An adapter merged into its base model, as a folder of a whole model."""

from pathlib import Path

import torch

from llava_av.model.adapters import merge_adapter
from llava_av.model.loading.saved_model import load_saved_model

__all__ = ["write_merged_model"]


def write_merged_model(folder: Path, base: Path, target: Path) -> None:
    """Merge in float32 and write the model in the precision of the adapter's training.

    Args:
        folder: Folder of the adapter.
        base: Folder of its base model.
        target: Folder to create.

    Raises:
        ModelFilesError: The adapter does not fit the base model.
        UserError: A merged weight would not be finite.
    """
    model, processor = load_saved_model(folder, base, dtype=torch.float32)
    merge_adapter(model)
    # The config is that of the adapter's folder.
    dtype = processor.config.dtype or torch.float32
    model.to(dtype)  # type: ignore[arg-type]
    model.config.dtype = dtype
    model.save_pretrained(target)
    processor.save_pretrained(target)
