"""Model of a recipe on the meta device, where tensors have shapes and no memory."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from llava_av.checkpoints import base_folder, fetch_checkpoint
from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.model import LlavaAvConfig, LlavaAvForConditionalGeneration
from llava_av.model.adapters import set_trained_weights
from llava_av.model.files.folder_checks import require_folder, require_llava_av
from llava_av.model.loading.fresh_model import config_from_recipe
from llava_av.model.loading.saved_model import base_config
from llava_av.model.parts import trainable_parts
from llava_av.recipe import PART_NAMES, Recipe, shipped_base
from llava_av.storage import ObjectStore
from llava_av.training.engines.torch_engine import sharded_blocks

__all__ = ["ModelSize", "PartSize", "build_meta_model", "model_size"]

_CONFIG_FILE = "model/config.json"
# Names of the special tokens' IDs; their values change no size.
_TOKENS = ("image_token_id", "video_token_id", "audio_token_id", "eos_token_id", "pad_token_id")


class PartSize(FrozenModel):
    """Parameters of a part of the model."""

    name: str
    """Part, as in `model.trainable_parts` of a recipe."""
    parameters: int
    """Parameters, tied ones counted once."""
    trained: int
    """Parameters that the recipe trains."""


class ModelSize(FrozenModel):
    """Parameters of a model."""

    parts: tuple[PartSize, ...]
    """Parts that have parameters."""
    trained_tensors: int
    """Number of trained tensors."""
    largest: int
    """Parameters of the largest tensor."""
    outside: PartSize
    """Parameters outside of the blocks that the `torch` engine shards by themselves."""
    block: PartSize
    """Largest of these blocks."""

    @property
    def parameters(self) -> int:
        """Return the parameters of all parts."""
        return sum(part.parameters for part in self.parts)

    @property
    def trained(self) -> int:
        """Return the trained parameters of all parts."""
        return sum(part.trained for part in self.parts)


def build_meta_model(recipe: Recipe) -> LlavaAvForConditionalGeneration:
    """Build the model of a recipe in train mode; no weight is allocated or read.

    Its weights have the precision that the recipe computes with, and the trained parts are set.

    Raises:
        CheckpointError: There is no base model at `model.base`.
        UserError: The recipe or the base model's config does not describe a model; the text gives the reason.
    """
    try:
        config = _fresh_config(recipe) if recipe.model.base is None else _base_config(recipe)
        with torch.device("meta"):
            model = LlavaAvForConditionalGeneration(config)
    except UserError:
        raise
    except Exception as error:  # options of any content lead to errors of any kind
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split())
        raise UserError(
            f"recipe {recipe.name}: the model cannot be built: {kind}{reason}; correct the section model"
        ) from error
    with torch.device("meta"):
        set_trained_weights(model, recipe)
    if recipe.training.precision == "bf16":
        for weight in model.parameters():
            # Engines keep buffers, such as frequencies of positions, in float32.
            weight.data = weight.data.bfloat16()
    model.train()
    return model


def model_size(model: LlavaAvForConditionalGeneration) -> ModelSize:
    """Count the parameters of a model by part."""
    parameters: Counter[str] = Counter()
    trained: Counter[str] = Counter()
    weights = list(model.named_parameters())
    part_of = trainable_parts(model)
    for name, weight in weights:
        parameters[part_of[name]] += weight.numel()
        trained[part_of[name]] += weight.numel() if weight.requires_grad else 0
    blocks = sharded_blocks(model)
    inside = {id(weight) for block in blocks for weight in block.parameters()}
    return ModelSize(
        parts=tuple(
            PartSize(name=name, parameters=parameters[name], trained=trained[name])
            for name in PART_NAMES
            if parameters[name]
        ),
        trained_tensors=sum(weight.requires_grad for _, weight in weights),
        largest=max(weight.numel() for _, weight in weights),
        outside=_part_size("outside", [weight for _, weight in weights if id(weight) not in inside]),
        block=max(
            (_part_size("block", list(block.parameters())) for block in blocks),
            key=lambda block: block.parameters,
            default=_part_size("block", []),
        ),
    )


def _part_size(name: str, weights: Sequence[nn.Parameter]) -> PartSize:
    return PartSize(
        name=name,
        parameters=sum(weight.numel() for weight in weights),
        trained=sum(weight.numel() for weight in weights if weight.requires_grad),
    )


def _fresh_config(recipe: Recipe) -> LlavaAvConfig:
    ids = {name: number for number, name in enumerate(_TOKENS)}
    vocabulary = {"vocab_size": recipe.model.vocabulary_size}
    return config_from_recipe(recipe.model, recipe.media, ids | vocabulary)


def _base_config(recipe: Recipe) -> LlavaAvConfig:
    """Read the config of the base model; of one in S3, nothing else is downloaded.

    The base models of shipped recipes may be absent: their configs come with the recipes.
    """
    assert recipe.model.base is not None, "only called for a recipe with a base model"
    with tempfile.TemporaryDirectory(prefix="llava-av-config-") as work:
        folder = _config_folder(recipe.model.base, Path(work))
        require_folder(folder)
        require_llava_av(folder)
        return base_config(recipe, folder)


def _config_folder(address: str, work: Path) -> Path:
    if not address.startswith("s3://"):
        return shipped_base(address) or base_folder(address, "", work)
    fetch_checkpoint(ObjectStore.from_env(), address, work, [_CONFIG_FILE])
    return (work / _CONFIG_FILE).parent
