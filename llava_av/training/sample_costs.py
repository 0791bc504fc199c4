"""Estimated cost of samples in a model: floating-point operations of the forward and backward pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from llava_av.media.clip import SampleSize
from llava_av.training.micro_batches import SampleCost
from llava_av.training.model_flops import BatchCounts, ModelFlops
from llava_av.vocabulary import PART_NAMES, PartName

if TYPE_CHECKING:
    from llava_av.datasets.schema import Sample

__all__ = ["CostEstimate"]

_LANGUAGE: tuple[PartName, ...] = ("language", "embeddings")


class CostEstimate:
    """Estimate of the cost of samples.

    Args:
        flops: Operations of the model's forward pass; None if they cannot be counted: the cost of a sample is
            then its number of tokens.
        trained: Share of trained weights by part.
        recomputed: Parts whose activations are recomputed in the backward pass.
    """

    def __init__(
        self,
        flops: ModelFlops | None,
        *,
        trained: Mapping[PartName, float],
        recomputed: Collection[str] = (),
    ) -> None:
        self._flops, self._passes = flops, _passes(trained, recomputed)

    def of(self, sample: Sample, size: SampleSize) -> SampleCost:
        """Return the estimated cost of a sample of some size."""
        language, towers = float(size.tokens), 0.0
        if self._flops is not None:
            counts = BatchCounts(
                tokens=(size.tokens,),
                labelled=0,
                frames=size.frames,
                tiles=size.image_tiles,
                audios=size.audios,
            )
            costs = {part: self._passes[part] * cost for part, cost in self._flops.forward(counts).items()}
            language = sum(costs.pop(part) for part in _LANGUAGE)
            towers = sum(costs.values())
        return SampleCost(tokens=size.tokens, language=language, towers=towers, media=sample.media_key)


def _passes(trained: Mapping[PartName, float], recomputed: Collection[str]) -> dict[PartName, float]:
    """Return the cost of the forward and backward pass of each part, in units of its forward pass."""
    passes: dict[PartName, float] = {}
    for part in PART_NAMES:
        backward = 2 * trained.get(part, 0.0)
        if part in _LANGUAGE:
            # The gradients of trained connectors pass through the language model even if it is frozen.
            backward = 1 + trained.get(part, 0.0)
        passes[part] = 1 + backward + (part in recomputed and backward > 0)
    return passes
