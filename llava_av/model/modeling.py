"""Model: a vision tower and an audio tower whose tokens enter a causal language model."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin
from transformers.utils.generic import ModelOutput

from llava_av.model.batch_layout import IGNORE, BatchLayout, LabelledTokens, MediaMismatchError, PackedRows
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.device_waits import on_device
from llava_av.model.encoders import LlavaAvEncoders
from llava_av.model.files.deferred import DeferredWeights
from llava_av.model.files.reading import require_whole
from llava_av.model.media_inputs import MediaInputs
from llava_av.model.token_loss import token_losses

__all__ = ["IGNORE", "LlavaAvForConditionalGeneration", "LlavaAvOutput", "MediaMismatchError"]


@dataclass
class LlavaAvOutput(ModelOutput):
    """Logits without labels; with labels the loss, in total and of each row."""

    loss: Tensor | None = None
    """Mean cross-entropy over the labelled tokens of the batch."""
    logits: Tensor | None = None
    """`[batch, kept, vocabulary]`; with labels only if `logits_to_keep` is given."""
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    loss_sums: Tensor | None = None
    """Summed cross-entropy of each row, `[batch]`; of each sample of packed rows, `[samples]`."""
    loss_counts: Tensor | None = None
    """Number of labelled tokens of each row or sample."""


class LlavaAvForConditionalGeneration(LlavaAvEncoders, GenerationMixin):
    """LLaVA with images, video and audio."""

    main_input_name = "input_ids"
    input_modalities = ["image", "video", "audio", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # In addition to those of the towers and the language model, which transformers finds.
    _no_split_modules = ["AudioTower", "PerceiverResampler", "QueryTransformer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    def __init__(self, config: LlavaAvConfig) -> None:
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.equal_calls: Callable[[int], int] | None = None
        """As in `AudioTower`, for the head."""
        self.deferred: DeferredWeights | None = None
        """Values of parameters on the meta device, which an engine reads; None if all are in memory."""
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **options: Any) -> Any:
        """Load a model as in transformers, whose own method only warns of weights that it draws at random.

        Raises:
            ModelFilesError: Weights are missing, left over or, without `ignore_mismatched_sizes`, differ in
                shape; names them.
        """
        ignored = options.pop("ignore_mismatched_sizes", False)
        with_info = options.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
        model, info = loaded
        require_whole(
            pretrained_model_name_or_path,
            missing=info["missing_keys"],
            left_over=info["unexpected_keys"],
            mismatched=() if ignored else info["mismatched_keys"],
        )
        return loaded if with_info else model

    def get_input_embeddings(self) -> Any:
        """Return the language model's input embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Set the language model's input embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """Return the language model's head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Set the language model's head."""
        self.language_model.set_output_embeddings(value)

    def get_decoder(self) -> Any:
        """Return the language model without its head."""
        return self.language_model.get_decoder()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        batch_num_images: Tensor | None = None,
        image_tiles: Tensor | None = None,
        image_order: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        frame_norm: Tensor | None = None,
        video_frames: Tensor | None = None,
        video_order: Tensor | None = None,
        audio_values: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        audio_order: Tensor | None = None,
        labels: Tensor | None = None,
        sample_of: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
        layout: BatchLayout | None = None,
        **options: Any,
    ) -> LlavaAvOutput:
        """Predict each next token.

        The arguments from `pixel_values` to `audio_order` are the fields of `MediaInputs`, which documents
        their shapes.

        Args:
            input_ids: `[batch, length]` with one placeholder token for each media token.
            attention_mask: `[batch, length]`, 0 on padding.
            position_ids: `[batch, length]`.
            past_key_values: Cache of earlier calls.
            inputs_embeds: `[batch, length, width]` instead of `input_ids`, including media.
            pixel_values: Tiles of images.
            image_sizes: Height and width of each image.
            batch_num_images: Number of images of each row.
            image_tiles: Number of tiles of each image.
            image_order: Index of the image at each position.
            pixel_values_videos: Frames of videos.
            frame_norm: Mean and standard deviation of frames that are given in bytes.
            video_frames: Number of frames of each video.
            video_order: Index of the video at each position.
            audio_values: Prepared audio.
            audio_lengths: Number of samples of each audio array.
            audio_order: Index of the audio array at each position.
            labels: `[batch, length]`, `IGNORE` at positions without a target.
            sample_of: `[batch, length]`, for packed rows instead of `attention_mask`: the number of each
                token's sample, -1 on padding. Samples do not attend to each other, and each gets its own
                loss.
            use_cache: True to return `past_key_values`; with labels False by default, for packed rows
                always.
            logits_to_keep: Number of last positions that get logits, or their indices; 0: all.
            num_items_in_batch: Number of labelled tokens of all batches that share one optimizer step, as
                transformers' Trainer counts them; the loss is then this batch's share of their mean.
            layout: Structure of the batch; None to read it from the device of the other arguments.
            options: Arguments for the language model.

        Raises:
            ValueError: Both or neither of `input_ids` and `inputs_embeds` are given, or `sample_of` is given
                with a mask or a cache.
            MediaMismatchError: The numbers of placeholder tokens and features differ; names both.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if input_ids is not None:
            media = MediaInputs(
                pixel_values=pixel_values,
                image_sizes=image_sizes,
                batch_num_images=batch_num_images,
                image_tiles=image_tiles,
                image_order=image_order,
                pixel_values_videos=pixel_values_videos,
                frame_norm=frame_norm,
                video_frames=video_frames,
                video_order=video_order,
                audio_values=audio_values,
                audio_lengths=audio_lengths,
                audio_order=audio_order,
            )
            inputs_embeds = self._embed_unless_reply(input_ids, media, past_key_values, layout)
        assert inputs_embeds is not None, "exactly one of both was given"
        rows, length, _ = inputs_embeds.shape
        if sample_of is not None:
            _require_packable(attention_mask, past_key_values)
            # a cache would join the samples of a row
            use_cache = False
            packed = (
                PackedRows.of(sample_of.cpu()) if layout is None or layout.packed is None else layout.packed
            )
            inputs_embeds, position_ids, bounds = self._packed(inputs_embeds, packed)
            options |= bounds
        with contextlib.nullcontext() if layout is None else layout.known_masks(inputs_embeds.device):
            output = self.get_decoder()(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=False if use_cache is None and labels is not None else use_cache,
                **options,
            )
        hidden = output.last_hidden_state.reshape(rows, length, -1)
        kept = ("past_key_values", "hidden_states", "attentions")
        predicted = LlavaAvOutput(**{name: output.get(name) for name in kept})
        if labels is not None:
            labelled = None if layout is None else layout.labelled
            if labelled is None:
                labelled = LabelledTokens.of(labels.cpu(), None if sample_of is None else sample_of.cpu())
            self._set_loss(predicted, hidden, labelled, num_items_in_batch)
        if labels is None or logits_to_keep is not None:
            predicted["logits"] = self._logits(hidden, logits_to_keep)
        return predicted

    def _embed_unless_reply(
        self, input_ids: Tensor, media: MediaInputs, cache: Any, layout: BatchLayout | None
    ) -> Tensor:
        """Embed the input; in the continuation of a reply, a generated placeholder token is text."""
        if _continues_reply(cache, media):
            embeddings: Tensor = self.get_input_embeddings()(input_ids)
            return embeddings
        return self.embed(input_ids, media, layout, run_absent=self.training)

    def _packed(self, embeddings: Tensor, packed: PackedRows) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return embeddings, positions and further arguments of packed rows as the attention takes them."""
        positions = on_device(packed.positions, embeddings.device)
        if "flash" not in self.language_model.config._attn_implementation:
            return embeddings, positions, {}
        positions = positions.reshape(1, -1)  # its kernels for several lengths take all of them in one row
        bounds = {
            name: on_device(one, positions.device) if isinstance(one, Tensor) else one
            for name, one in packed.bounds.items()
        }
        return embeddings.reshape(1, -1, embeddings.shape[2]), positions, bounds

    def _logits(self, hidden: Tensor, keep: int | Tensor | None) -> Tensor:
        """Return the logits of the last `keep` positions, of those with these indices, or of all."""
        positions = keep if isinstance(keep, Tensor) else slice(-(keep or 0), None)
        logits: Tensor = self.get_output_embeddings()(hidden[:, positions])
        return logits

    def embed(
        self,
        input_ids: Tensor,
        media: MediaInputs,
        layout: BatchLayout | None = None,
        *,
        run_absent: bool = False,
    ) -> Tensor:
        """Return token embeddings `[batch, length, width]` with media features at their placeholder tokens.

        Args:
            input_ids: `[batch, length]`.
            media: Media of the batch.
            layout: Structure of the batch; None to read it from the device of the tensors.
            run_absent: True to also run encoders without media, with weight zero.

        Raises:
            MediaMismatchError: The numbers of placeholder tokens and features differ; names both.
        """
        embeddings: Tensor = self.get_input_embeddings()(input_ids)
        if layout is None:
            layout = BatchLayout.of(self.config, {"input_ids": input_ids, **media.to_arguments()})
        features = self.media_features(media, layout.media, run_absent=run_absent)
        for absent in features.absent:
            embeddings = embeddings + 0.0 * absent.sum()
        for modality, of_modality in (
            ("video", features.video),
            ("image", features.image),
            ("audio", features.audio),
        ):
            embeddings = layout.placeholders[modality].fill(embeddings, of_modality)
        return embeddings

    def generate(self, inputs: Tensor | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Generate as in transformers: prompts and their continuations, `[batch, length]`.

        Takes media as `forward` does; they go through the towers once, for any number of beams.
        """
        media = MediaInputs.from_arguments({name: options.pop(name, None) for name in MediaInputs.names()})
        input_ids = options.pop("input_ids", inputs)
        if not media.is_empty:
            with torch.no_grad():
                options["inputs_embeds"] = self.embed(input_ids, media)
        return super().generate(input_ids, **options)  # type: ignore[misc]

    def _set_loss(
        self,
        predicted: LlavaAvOutput,
        hidden: Tensor,
        labelled: LabelledTokens,
        num_items_in_batch: int | Tensor | None,
    ) -> None:
        places, targets, owners, counts = (
            on_device(one, hidden.device)
            for one in (labelled.places, labelled.targets, labelled.owners, labelled.counts)
        )
        # The logits of all other positions are never needed.
        labelled_hidden = hidden.flatten(0, 1).index_select(0, places)
        losses = token_losses(self.get_output_embeddings(), labelled_hidden, targets, self.equal_calls)
        sums = losses.new_zeros(len(counts)).index_add(0, owners, losses)
        predicted["loss_sums"], predicted["loss_counts"] = sums, counts
        total = counts.sum() if num_items_in_batch is None else num_items_in_batch
        predicted["loss"] = sums.sum() / total


def _require_packable(attention_mask: Tensor | None, cache: Any) -> None:
    if attention_mask is not None:
        raise ValueError("packed rows use sample_of instead of attention_mask: remove attention_mask")
    if cache is not None:
        raise ValueError("packed rows (sample_of) are read in one call: remove past_key_values")


def _continues_reply(past_key_values: Any, media: MediaInputs) -> bool:
    """Return whether the call continues a reply instead of reading a prompt."""
    has_read = past_key_values is not None and past_key_values.get_seq_length() > 0
    return has_read and media.is_empty
