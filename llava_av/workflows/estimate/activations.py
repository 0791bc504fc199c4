"""Activations of one step on one GPU: the bytes that autograd saves for the backward pass.

The forward pass of the real modules runs on the meta device, where tensors have shapes and no memory, and
hooks add up what autograd saves. Every tower and language model of transformers, frozen or trained, is
therefore counted as PyTorch would keep it, without a formula for each architecture.

Attention is counted as its fused kernels save it: queries, keys, values, output, and one number for each
query of each head. Every layer saves a padding mask as floating-point numbers, as PyTorch does.

Of blocks and of chunks of logits that are computed again in the backward pass, the input is kept, and one of
them at a time is there as a whole.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from llava_av.errors import UserError
from llava_av.model import LlavaAvForConditionalGeneration, MediaInputs
from llava_av.model.audio.front_end import LogMelFrontEnd
from llava_av.model.parts import recompute_activations, trainable_parts
from llava_av.model.token_loss import CHUNK, token_losses
from llava_av.training.model_flops import KnownValues
from llava_av.workflows.estimate.saved_bytes import SavedBytes

__all__ = ["Activations", "GpuBatch", "activations", "peak_bytes"]


# Names of the number of experts in the configs of language models.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, kw_only=True)
class GpuBatch:
    """Sizes of what one GPU computes in one step."""

    samples: int
    """Samples, each with a video of `frames` and its audio."""
    frames: int
    """Frames of each video; 0 for a model without vision."""
    audio_samples: int
    """Audio samples of each video; 0 for a model without audio."""
    rows: int
    """Rows of the language model."""
    row_tokens: int
    """Tokens of each row, including padding."""
    labelled_tokens: int
    """Tokens with a loss, which alone get logits."""
    packed: bool
    """True if rows hold several samples, which need no padding mask."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes of one section of the forward pass."""

    kept: int
    """Saved for the backward pass."""
    again: int
    """Saved by the largest block or chunk of those that the backward pass computes again."""


def activations(
    model: LlavaAvForConditionalGeneration, batch: GpuBatch, recomputed: Collection[str] = ()
) -> tuple[Activations, Activations, Activations]:
    """Return the activations of the three sections: encoders, language model, and logits.

    Args:
        model: Model on the meta device in train mode, with the trained weights set.
        batch: Sizes of the batch.
        recomputed: Parts of `training.activation_checkpointing`.

    Raises:
        UserError: The language model routes tokens to experts, or a part computes shapes from values.
    """
    _require_dense(model)
    try:
        return _traced(model, batch, recomputed)
    except Exception as error:  # modules of transformers fail on the meta device with errors of any kind
        reason = " ".join(str(error).split())
        raise UserError(
            f"activations of this model cannot be estimated: {type(error).__name__}: {reason}; measure the "
            "memory in a short training"
        ) from error


def _require_dense(model: LlavaAvForConditionalGeneration) -> None:
    """Require that no tokens are routed to experts, because the tokens of each expert depend on the data."""
    text = model.config.text_config
    experts = max(getattr(text, name, None) or 1 for name in _EXPERTS)
    if experts > 1:
        parameters = sum(weight.numel() for weight in model.parameters())
        raise UserError(
            f"a mixture-of-experts language model cannot be estimated: {text.model_type} routes each token "
            f"to {text.num_experts_per_tok} of {experts} experts, and the memory depends on the routing. The "
            f"model has {parameters:,} parameters; measure the memory in a short training, or take a dense "
            "model"
        )


def peak_bytes(sections: Sequence[Activations]) -> int:
    """Return the bytes at the peak of the backward pass, which frees the last section first."""
    kept = accumulate(section.kept for section in sections)
    return max(before + section.again for before, section in zip(kept, sections, strict=True))


def _traced(
    model: LlavaAvForConditionalGeneration, batch: GpuBatch, recomputed: Collection[str]
) -> tuple[Activations, Activations, Activations]:
    if hasattr(model, "audio_tower"):
        # SpecAugment draws the masked positions, for which the meta device has no values.
        model.audio_tower.model.config.apply_spec_augment = False
    recompute_activations(model, recomputed)
    layers = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
    blocks = [one for one in layers if one.gradient_checkpointing]
    saved = SavedBytes(model, layers)
    labelled = batch.labelled_tokens
    with _FusedAttention(saves_mask=not batch.packed), saved:
        encoders = saved.added_by(lambda: _run_encoders(model, batch))
        language = saved.added_by(lambda: _run_language(model, batch))
        logits = saved.added_by(lambda: _run_loss(model, labelled))
        for block in blocks:
            block.gradient_checkpointing = False
        of_encoders = saved.largest_of(blocks, lambda: _run_encoders(model, batch))
        of_language = saved.largest_of(blocks, lambda: _run_language(model, batch))
        chunk = saved.added_by(lambda: _run_loss(model, CHUNK)) if labelled > CHUNK else 0
    return (
        Activations(kept=encoders, again=of_encoders),
        Activations(kept=language, again=of_language),
        Activations(kept=logits, again=chunk),
    )


def _run_encoders(model: LlavaAvForConditionalGeneration, batch: GpuBatch) -> Any:
    media: dict[str, Any] = {}
    shape: tuple[int, ...]
    if batch.frames:
        size = model.config.frame_size
        shape = (batch.samples, batch.frames, 3, size, size)
        media["pixel_values_videos"] = torch.empty(shape, device="meta")
    if batch.audio_samples:
        end = model.audio_tower.front_end
        shape = (batch.samples, batch.audio_samples)
        if isinstance(end, LogMelFrontEnd):
            windows = batch.samples * len(end.windows(batch.audio_samples))
            shape = (windows, end.extractor.feature_size, end.extractor.nb_max_frames)
        media["audio_values"] = torch.empty(shape, device="meta")
        media["audio_lengths"] = torch.full((batch.samples,), batch.audio_samples)
    return model.media_features(MediaInputs(**media), run_absent=True)


def _run_language(model: LlavaAvForConditionalGeneration, batch: GpuBatch) -> Any:
    rows, length = batch.rows, batch.row_tokens
    width = model.config.text_config.hidden_size
    part_of = trainable_parts(model)
    is_trained = any(
        one.requires_grad and part_of[name] != "language" for name, one in model.named_parameters()
    )
    embeddings = torch.empty(rows, length, width, dtype=model.dtype, device="meta", requires_grad=is_trained)
    mask = torch.empty(rows, 1, length, length, dtype=torch.bool, device="meta")
    return model.get_decoder()(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)


def _run_loss(model: LlavaAvForConditionalGeneration, labelled: int) -> Any:
    width = model.config.text_config.hidden_size
    hidden = torch.empty(labelled, width, dtype=model.dtype, device="meta", requires_grad=True)
    targets = torch.empty(labelled, dtype=torch.long, device="meta")
    return token_losses(model.get_output_embeddings(), hidden, targets)


class _FusedAttention(KnownValues):
    """Attention in the block that saves what the fused kernels save.

    The meta device would otherwise run the unfused one, which saves a number for each query, key and head.
    """

    def __init__(self, *, saves_mask: bool) -> None:
        super().__init__()
        self._saves_mask = saves_mask

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is not nn.functional.scaled_dot_product_attention:
            return super().__torch_function__(function, types, args, kwargs)
        query, key, value = args[:3]
        mask = (kwargs or {}).get("attn_mask") if self._saves_mask else None
        bias = _float_mask(mask, query)
        return _SavingAttention.apply(query, key, value, bias)  # type: ignore[no-untyped-call]


class _SavingAttention(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        batch, heads, length, _ = query.shape
        # The kernels write [batch, length, heads, width], so that joining the heads copies nothing.
        output = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        context.save_for_backward(query, key, value, bias, output, sums)
        return output


def _float_mask(mask: Tensor | None, query: Tensor) -> Tensor | None:
    return query.new_empty(mask.shape) if mask is not None and mask.dtype == torch.bool else mask
