"""Estimate of a recipe: parameters, memory of a GPU, tokens of a step, size of a checkpoint.

A step is estimated with the longest samples that the recipe admits: `media.max_frames` frames and
`media.max_audio_s` seconds of audio in each, and text of a given length, all of it with a loss. Each sample
has a row of its own, or samples are packed into rows of `training.pack_length`.
"""

import json
from typing import Any

from llava_av.frozen import FrozenModel
from llava_av.model import LlavaAvForConditionalGeneration
from llava_av.model.sequence.packing import pack_rows
from llava_av.recipe import Recipe
from llava_av.training.engines import reads_weights
from llava_av.workflows.estimate.activations import GpuBatch, activations, peak_bytes
from llava_av.workflows.estimate.memory import GpuMemory, checkpoint_bytes, gpu_memory
from llava_av.workflows.estimate.meta_model import ModelSize, build_meta_model, model_size

__all__ = ["TEXT_TOKENS", "Estimate", "Estimator", "longest_batch"]

TEXT_TOKENS = 256
"""Tokens of a sample's text, unless the user names another number."""


class Estimate(FrozenModel):
    """Size of a recipe on a number of GPUs."""

    recipe: str
    """Name of the recipe."""
    digest: str
    """Digest of the recipe with this number of GPUs."""
    gpus: int
    engine: str
    zero_stage: int | None
    """ZeRO stage; None for the torch engine."""
    precision: str
    """Precision of the recipe: `bf16` or `fp32`."""
    model: ModelSize
    samples_per_gpu: int
    """Samples of one GPU in one step."""
    tokens_per_sample: int
    """Tokens of the longest sample."""
    tokens_per_step: int
    """Tokens of one step over all GPUs, if all samples are as long as the longest."""
    memory: GpuMemory
    """Bytes of one GPU."""
    checkpoint_bytes: int
    """Bytes of one checkpoint; the last one also holds the model."""

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the sums as JSON."""
        content: dict[str, Any] = self.model_dump(mode="json")
        content["model"] |= {"parameters": self.model.parameters, "trained": self.model.trained}
        return content


class Estimator:
    """Estimates of one recipe and its variants; equal models and batches are computed once."""

    def __init__(self, *, text_tokens: int = TEXT_TOKENS) -> None:
        self._text_tokens = text_tokens
        self._models: dict[str, LlavaAvForConditionalGeneration] = {}
        self._activations: dict[tuple[str, GpuBatch, tuple[str, ...]], int] = {}

    def estimate_stages(self, recipe: Recipe) -> dict[str, Estimate]:
        """Estimate each stage of a recipe; one without stages has a single stage with an empty name.

        Raises:
            CheckpointError: See `estimate`.
            UserError: See `estimate`.
        """
        digest = {"digest": recipe.digest()}
        return {
            span.name: self.estimate(recipe.of_stage(span.index)).model_copy(update=digest)
            for span in recipe.schedule.spans
        }

    def estimate(self, recipe: Recipe) -> Estimate:
        """Estimate a recipe on `training.num_processes` GPUs.

        Raises:
            CheckpointError: There is no base model at `model.base`.
            UserError: The recipe or the base model's config does not describe a model, or one whose
                activations cannot be estimated.
        """
        training = recipe.training
        sections = [section.model_dump(mode="json") for section in (recipe.model, recipe.media)]
        key = json.dumps([*sections, training.precision])
        if key not in self._models:
            self._models[key] = build_meta_model(recipe)
        model = self._models[key]
        size = model_size(model)
        tokens, batch = longest_batch(model, recipe, self._text_tokens)
        recomputed = training.activation_checkpointing
        if (key, batch, recomputed) not in self._activations:
            self._activations[key, batch, recomputed] = peak_bytes(activations(model, batch, recomputed))
        return Estimate(
            recipe=recipe.name,
            digest=recipe.digest(),
            gpus=training.num_processes,
            engine=training.engine,
            zero_stage=training.zero_stage if training.engine == "deepspeed" else None,
            precision=training.precision,
            model=size,
            samples_per_gpu=batch.samples,
            tokens_per_sample=tokens,
            tokens_per_step=tokens * training.global_batch_size,
            memory=gpu_memory(
                size,
                training,
                self._activations[key, batch, recomputed],
                starts_whole=recipe.model.base is None or not reads_weights(recipe, training.num_processes),
            ),
            checkpoint_bytes=checkpoint_bytes(size),
        )


def longest_batch(
    model: LlavaAvForConditionalGeneration, recipe: Recipe, text_tokens: int
) -> tuple[int, GpuBatch]:
    """Return the tokens of the longest sample, and a micro-batch of one GPU if all samples are like it."""
    counts, config, training = model.token_counts, model.config, recipe.training
    frames = recipe.media.max_frames if config.has_vision else 0
    audio_samples = 0
    tokens = text_tokens
    if frames:
        tokens += sum(counts.video_frame_tokens(frames)) + (config.video_newline == "one")
    if config.has_audio:
        asked = round(recipe.media.max_audio_s * config.sample_rate_hz)
        audio_samples = max(asked, model.audio_tower.front_end.field)
        tokens += counts.audio_tokens(audio_samples)
    limits = [limit for limit in (recipe.model.max_tokens, training.pack_length) if limit is not None]
    tokens = min([tokens, *limits])
    samples = -(-training.global_batch_size // training.num_processes)
    rows = [tokens] * samples
    if training.pack_length is not None:
        packed = pack_rows([tokens] * samples, training.pack_length)
        rows = [len(row) * tokens for row in packed]
    if training.micro_batch_tokens is not None:
        rows = rows[: max(1, training.micro_batch_tokens // (training.pack_length or tokens))]
    samples = sum(rows) // tokens
    batch = GpuBatch(
        samples=samples,
        frames=frames,
        audio_samples=audio_samples,
        rows=len(rows),
        row_tokens=max(rows),
        labelled_tokens=samples * min(text_tokens, tokens),
        packed=training.pack_length is not None,
    )
    return tokens, batch
