"""The model: a vision tower and an audio tower whose tokens enter a causal language model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin
from transformers.utils.generic import ModelOutput

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.encoders import MEDIA_INPUTS, LlavaAvEncoders
from llava_av.model.loading.weight_files import require_whole
from llava_av.model.sequence.packing import restarted_positions

__all__ = ["IGNORE", "LlavaAvForConditionalGeneration", "LlavaAvOutput", "MediaMismatchError"]

IGNORE = -100
"""Label of a position at which nothing is to be predicted."""


class MediaMismatchError(ValueError):
    """Placeholders in the text and features from the media differ in number."""


@dataclass
class LlavaAvOutput(ModelOutput):
    """Without labels the logits; with labels the loss, and each row's part of it."""

    loss: Tensor | None = None
    """Mean cross-entropy over the labelled tokens of the batch."""
    logits: Tensor | None = None
    """`[batch, kept, vocabulary]`; with labels only where `logits_to_keep` is given."""
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    loss_sums: Tensor | None = None
    """Summed cross-entropy of each row, `[batch]`; of each sample of packed rows, `[samples]`."""
    loss_counts: Tensor | None = None
    """Labelled tokens of each row or sample."""


class LlavaAvForConditionalGeneration(LlavaAvEncoders, GenerationMixin):
    """LLaVA that watches and listens."""

    main_input_name = "input_ids"
    input_modalities = ["image", "video", "audio", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Beside those of the towers and the language model, which transformers finds.
    _no_split_modules = ["AudioTower", "PerceiverResampler", "QueryTransformer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    def __init__(self, config: LlavaAvConfig) -> None:
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **options: Any) -> Any:
        """As transformers' `from_pretrained`, which only warns of weights that it makes up at random.

        Raises:
            ModelFilesError: weights that are missing, left over or, without `ignore_mismatched_sizes`, of
                another size, by name.
        """
        ignored = options.pop("ignore_mismatched_sizes", False)
        told = options.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
        model, info = loaded
        require_whole(pretrained_model_name_or_path, {**info, "mismatched_keys": ()} if ignored else info)
        return loaded if told else model

    def get_input_embeddings(self) -> Any:
        """The language model's."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the language model's."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """The language model's."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Sets the language model's."""
        self.language_model.set_output_embeddings(value)

    def get_decoder(self) -> Any:
        """The language model without its head."""
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
        **options: Any,
    ) -> LlavaAvOutput:
        """Predicts each next token.

        Media that several rows share are given once and go through the towers once: the orders say which
        medium stands at which place, row by row. Without an order each stands once, as given.

        Args:
            input_ids: `[batch, length]` with one placeholder for each media token.
            attention_mask: `[batch, length]`, 0 on padding.
            position_ids: `[batch, length]`.
            past_key_values: what earlier calls left.
            inputs_embeds: `[batch, length, width]` in place of `input_ids`, media and all.
            pixel_values: tiles of images, `[images, tiles, 3, size, size]` (padded) or, one image's after the
                other's, `[tiles, 3, size, size]`.
            image_sizes: height and width of each image before processing, `[images, 2]`.
            batch_num_images: images of each row; without it each image counts as its row's only one.
            image_tiles: tiles of each image, `[images]`; without it as many as its size asks for.
            image_order: `[places]`.
            pixel_values_videos: `[videos, frames, 3, size, size]` or, one video's after the other's,
                `[frames, 3, size, size]`.
            video_frames: frames of each video, `[videos]`; needed with the second form.
            video_order: `[places]`.
            audio_values: sounds as the tower takes them, padded, `[sounds, longest]`.
            audio_lengths: samples of each sound, `[sounds]`.
            audio_order: `[places]`.
            labels: `[batch, length]`, `IGNORE` where nothing is to be predicted.
            sample_of: `[batch, length]`, of packed rows: the number of each token's sample, -1 on padding. No
                sample sees another, and the loss is told for each; takes the place of `attention_mask`.
            use_cache: whether to return `past_key_values`; with labels not unless asked for, of packed rows
                never.
            logits_to_keep: last positions that get logits, or their indices; 0: all.
            num_items_in_batch: labelled tokens of all batches whose gradients are summed up into one step, as
                transformers' Trainer counts them; the loss is then this batch's share of their mean.
            options: for the language model.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds`, or `sample_of` beside a mask or
                beside what earlier calls left.
            MediaMismatchError: another number of placeholders than of features, with both counts.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if input_ids is not None:
            media = {
                "pixel_values": pixel_values,
                "image_sizes": image_sizes,
                "batch_num_images": batch_num_images,
                "image_tiles": image_tiles,
                "image_order": image_order,
                "pixel_values_videos": pixel_values_videos,
                "video_frames": video_frames,
                "video_order": video_order,
                "audio_values": audio_values,
                "audio_lengths": audio_lengths,
                "audio_order": audio_order,
            }
            if _goes_on(past_key_values, media):
                # a placeholder that the model wrote by itself stands for nothing
                inputs_embeds = self.get_input_embeddings()(input_ids)
            else:
                inputs_embeds = self.embed(input_ids, run_absent=self.training, **media)
        assert inputs_embeds is not None, "one of both was given"
        shape = inputs_embeds.shape
        if sample_of is not None:
            if attention_mask is not None:
                raise ValueError("packed rows take sample_of, not an attention_mask beside it")
            if past_key_values is not None:
                raise ValueError("packed rows are read in one call, without past_key_values beside sample_of")
            # a cache would join the samples of a row
            use_cache = False
            position_ids = restarted_positions(sample_of)
            if "flash" in self.language_model.config._attn_implementation:
                # its kernels for sequences of several lengths take them in one row
                inputs_embeds, position_ids = (
                    inputs_embeds.reshape(1, -1, shape[2]),
                    position_ids.reshape(1, -1),
                )
        output = self.get_decoder()(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=False if use_cache is None and labels is not None else use_cache,
            **options,
        )
        hidden = output.last_hidden_state.reshape(*shape[:2], -1)
        predicted = self._predicted(output, hidden, labels, sample_of, logits_to_keep)
        if predicted.loss_sums is not None and num_items_in_batch is not None:
            predicted["loss"] = predicted.loss_sums.sum() / num_items_in_batch
        return predicted

    def embed(self, input_ids: Tensor, *, run_absent: bool = False, **media: Tensor | None) -> Tensor:
        """Token embeddings `[batch, length, width]` with media features in place of their placeholders.

        Args:
            input_ids: `[batch, length]`.
            run_absent: run encoders that get no media, too, at zero weight.
            media: those of `MEDIA_INPUTS` that there are.

        Raises:
            MediaMismatchError: another number of placeholders than of features, with both counts.
        """
        embeddings: Tensor = self.get_input_embeddings()(input_ids)
        features = self.media_features(run_absent=run_absent, **media)
        for absent in features.get("absent", []):
            embeddings = embeddings + 0.0 * absent.sum()
        for kind in ("video", "image", "audio"):
            embeddings = self._place(kind, input_ids, embeddings, features.get(kind, []))
        return embeddings

    def generate(self, inputs: Tensor | None = None, **options: Any) -> Any:  # type: ignore[override]
        """As transformers' `generate`: prompts and what follows them, `[batch, length]`.

        Takes media as `forward` does; they go through the towers once, however many beams there are.
        """
        media = {name: options.pop(name) for name in MEDIA_INPUTS if name in options}
        input_ids = options.pop("input_ids", inputs)
        if any(value is not None for value in media.values()):
            with torch.no_grad():
                options["inputs_embeds"] = self.embed(input_ids, **media)
        return super().generate(input_ids, **options)  # type: ignore[misc]

    def _place(self, kind: str, input_ids: Tensor, embeddings: Tensor, features: Sequence[Tensor]) -> Tensor:
        token = getattr(self.config, f"{kind}_token_id")
        places = torch.zeros_like(input_ids, dtype=torch.bool) if token is None else input_ids == token
        _require_whole_media(kind, places.sum(1).tolist(), [len(one) for one in features])
        if not features:
            return embeddings
        return embeddings.masked_scatter(places.unsqueeze(-1), torch.cat(list(features)).to(embeddings))

    def _predicted(
        self,
        output: Any,
        hidden: Tensor,
        labels: Tensor | None,
        sample_of: Tensor | None,
        logits_to_keep: int | Tensor | None,
    ) -> LlavaAvOutput:
        head = self.get_output_embeddings()
        predicted = LlavaAvOutput(
            past_key_values=output.get("past_key_values"),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
        )
        if labels is not None:
            targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
            labelled = targets != IGNORE
            # most positions of a media sample are unlabelled, and their logits are never needed
            losses = nn.functional.cross_entropy(
                head(hidden[labelled]).float(), targets[labelled], reduction="none"
            )
            if sample_of is None:
                owners, samples = labelled.nonzero()[:, 0], len(labels)
            else:
                owners, samples = sample_of[labelled], int(sample_of.max()) + 1
            sums = losses.new_zeros(samples).index_add(0, owners, losses)
            counts = owners.bincount(minlength=samples)
            predicted["loss_sums"], predicted["loss_counts"] = sums, counts
            predicted["loss"] = sums.sum() / counts.sum()
        if labels is None or logits_to_keep is not None:
            kept: Any = logits_to_keep or 0 if not isinstance(logits_to_keep, Tensor) else logits_to_keep
            predicted["logits"] = head(hidden[:, slice(-kept, None) if isinstance(kept, int) else kept])
        return predicted


def _require_whole_media(kind: str, placeholders: Sequence[int], tokens: Sequence[int]) -> None:
    """Require that the media fill the rows one after the other, each medium within one row.

    Args:
        kind: `image`, `video` or `audio`.
        placeholders: of each row.
        tokens: of each medium, in the order of their places.

    Raises:
        MediaMismatchError: with both counts, and the row where media of several rows make up for each other.
    """
    if sum(placeholders) != sum(tokens):
        raise MediaMismatchError(f"{sum(placeholders)} {kind} placeholders but {sum(tokens)} {kind} tokens")
    rest = iter(tokens)
    for row, wanted in enumerate(placeholders):
        filled = 0
        while filled < wanted:
            filled += next(rest)
        if filled != wanted:
            raise MediaMismatchError(
                f"row {row} has {wanted} {kind} placeholders but its media have {filled} {kind} tokens"
            )


def _goes_on(past_key_values: Any, media: Mapping[str, Tensor | None]) -> bool:
    """Whether this is a reply that is written, not a prompt that is read."""
    read = past_key_values is not None and past_key_values.get_seq_length() > 0
    return read and all(value is None for value in media.values())
