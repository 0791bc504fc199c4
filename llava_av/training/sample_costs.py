"""Estimated cost of samples in a model: floating-point operations of the forward and backward pass."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from llava_av.datasets.schema import Sample
from llava_av.media.clip import SampleSize
from llava_av.model import LlavaAvForConditionalGeneration
from llava_av.model.audio.tower import AudioTower
from llava_av.training.micro_batches import SampleCost

__all__ = ["sample_costs"]


def sample_costs(
    model: LlavaAvForConditionalGeneration,
    samples: Sequence[Sample],
    sizes: Sequence[SampleSize],
    recomputed: Collection[str] = (),
) -> list[SampleCost]:
    """Return the estimated cost of each sample, in floating-point operations.

    Args:
        model: Model before an engine takes its weights apart.
        samples: Samples of a dataset.
        sizes: Their sizes.
        recomputed: Parts whose activations are recomputed in the backward pass.
    """
    config = model.config
    # The gradients of trained connectors pass through the language model even if it is frozen.
    language = _Stack.of(model.language_model, config.text_config, "language" in recomputed, backward=1)
    vision = audio = None
    if config.has_vision:
        vision = _Stack.of(model.vision_tower, config.vision_config, "vision_tower" in recomputed)
    if config.has_audio:
        audio = _Stack.of(model.audio_tower, config.audio_config, "audio_tower" in recomputed)

    def towers(size: SampleSize) -> float:
        cost = 0.0
        if vision is not None:
            cost += (size.frames + size.image_tiles) * vision.cost(config.patches_per_side**2)
        if audio is not None:
            cost += sum(_audio_cost(audio, model.audio_tower, samples) for samples in size.audios)
        return cost

    return [
        SampleCost(
            tokens=size.tokens,
            language=language.cost(size.tokens),
            towers=towers(size),
            media=sample.media_key,
        )
        for sample, size in zip(samples, sizes, strict=True)
    ]


@dataclass(frozen=True)
class _Stack:
    """Transformer layers, with their passes in units of the forward pass."""

    weights: int
    width: int
    layers: int
    passes: float

    @classmethod
    def of(cls, module: nn.Module, config: Any, recomputed: bool, *, backward: int = 0) -> "_Stack":
        # A table is looked up, and the head computes logits of labelled positions alone.
        skipped: list[nn.Module] = [one for one in module.modules() if isinstance(one, nn.Embedding)]
        head = getattr(module, "lm_head", None)
        skipped += [head] if isinstance(head, nn.Module) else []
        left_out = {id(one) for table in skipped for one in table.parameters()}
        weights = [one for one in module.parameters() if id(one) not in left_out]
        trained = any(one.requires_grad for one in weights)
        backward = 2 if trained else backward
        return cls(
            weights=sum(one.numel() for one in weights),
            width=config.hidden_size,
            layers=config.num_hidden_layers,
            passes=1 + backward + (recomputed and backward > 0),
        )

    def cost(self, positions: int) -> float:
        """Return the operations for a sequence: two for each weight at each position, and attention."""
        attention = 4 * self.width * self.layers * positions**2
        return self.passes * (2 * self.weights * positions + attention)


def _audio_cost(stack: _Stack, tower: AudioTower, samples: int) -> float:
    """Return the operations for one audio array, which goes through the tower in windows."""
    front_end = tower.front_end
    windows = [front_end.feature_count(one.stop - one.start) for one in front_end.windows(samples)]
    return sum(map(stack.cost, windows)) + stack.passes * _convolutions(tower, samples)


def _convolutions(tower: AudioTower, samples: int) -> float:
    """Return what the convolutions of a waveform cost beyond one position for each feature."""
    config, length, cost, before = tower.model.config, samples, 0.0, 1
    features = tower.front_end.feature_count(samples)
    shapes = zip(*(getattr(config, f"conv_{name}", ()) for name in ("dim", "kernel", "stride")), strict=True)
    for width, kernel, stride in shapes:
        length = max(0, (length - kernel) // stride + 1)
        cost += 2 * width * before * kernel * max(0, length - features)
        before = width
    return cost
