"""The model: a vision tower and a wav2vec2 tower whose tokens enter a causal language model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.generic import ModelOutput

from llava_av.model.audio_downsamplers import build_audio_downsampler
from llava_av.model.config import LlavaAvConfig
from llava_av.model.projectors import build_projector
from llava_av.model.resamplers import build_resampler

__all__ = ["IGNORE", "LlavaAvForConditionalGeneration", "LlavaAvOutput", "MediaBatch", "MediaMismatchError"]

IGNORE = -100
"""Label of a position at which nothing is to be predicted."""


class MediaMismatchError(ValueError):
    """Placeholders in the text and features from the media differ in number."""


@dataclass(frozen=True, kw_only=True)
class MediaBatch:
    """All media of a batch; what several rows share is there once and goes through the towers once."""

    pixels: Tensor | None
    """Distinct frames and images, `[n, 3, size, size]` in -1 to 1."""
    video_order: Tensor
    """Index into `pixels` of each video frame in row order, `[frames]`."""
    image_order: Tensor
    """Index into `pixels` of each image in row order, `[images]`."""
    sounds: tuple[Tensor, ...]
    """Distinct sounds, `[samples]` each, normalised."""
    audio_order: tuple[int, ...]
    """Index into `sounds` of each sound in row order."""

    def to(self, device: torch.device | str) -> "MediaBatch":
        """A copy on a device."""
        return MediaBatch(
            pixels=None if self.pixels is None else self.pixels.to(device),
            video_order=self.video_order.to(device),
            image_order=self.image_order.to(device),
            sounds=tuple(sound.to(device) for sound in self.sounds),
            audio_order=self.audio_order,
        )


@dataclass
class LlavaAvOutput(ModelOutput):
    """Without labels the logits; with labels each row's summed cross-entropy and count of labels."""

    logits: Tensor | None = None
    """`[batch, length, vocabulary]`"""
    loss_sums: Tensor | None = None
    """`[batch]`"""
    loss_counts: Tensor | None = None
    """`[batch]`"""

    @property
    def loss(self) -> Tensor:
        """Mean cross-entropy over the labelled tokens of the batch.

        Raises:
            ValueError: the forward pass had no labels.
        """
        if self.loss_sums is None or self.loss_counts is None:
            raise ValueError("there is no loss without labels")
        return self.loss_sums.sum() / self.loss_counts.sum()


class LlavaAvForConditionalGeneration(PreTrainedModel):
    """LLaVA that watches and listens.

    Frames and images share the vision tower; each sound goes through the audio tower beside sounds of its
    own length only, so padding never touches a feature.
    """

    config_class = LlavaAvConfig
    _supports_sdpa = True

    def __init__(self, config: LlavaAvConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.audio_tower = AutoModel.from_config(config.audio_config)
        if not config.audio_config.apply_spec_augment:
            # without SpecAugment nothing ever uses its mask, and it must not wait for a gradient
            self.audio_tower.masked_spec_embed.requires_grad_(False)
        vision, audio, width = config.vision_config, config.audio_config, config.text_config.hidden_size
        self.resampler = build_resampler(
            config.resampler,
            width=vision.hidden_size,
            heads=vision.num_attention_heads,
            **config.resampler_options(),
        )
        self.audio_downsampler = build_audio_downsampler(
            "stack", width=audio.hidden_size, heads=audio.num_attention_heads, size=config.audio_stack
        )
        self.vision_projector = build_projector("mlp", width_in=vision.hidden_size, width_out=width)
        self.audio_projector = build_projector(
            "mlp", width_in=self.audio_downsampler.width_out, width_out=width
        )
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Scales the joining parts' own matrices by their width; towers initialise themselves."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def frame_features(self, pixels: Tensor) -> Tensor:
        """Frames `[n, 3, size, size]` in -1 to 1 to tokens `[n, tokens_per_frame, width]`."""
        patches = self.vision_tower(pixel_values=pixels).last_hidden_state
        side = self.config.patches_per_side()
        projected: Tensor = self.vision_projector(self.resampler(patches, side, side))
        return projected

    def audio_features(self, sounds: tuple[Tensor, ...]) -> list[Tensor]:
        """Sounds `[samples]` each to tokens `[audio_tokens(samples), width]` each, in the same order."""
        by_length: dict[int, list[int]] = {}
        for index, sound in enumerate(sounds):
            by_length.setdefault(len(sound), []).append(index)
        features: dict[int, Tensor] = {}
        for indices in by_length.values():
            hidden = self.audio_tower(torch.stack([sounds[index] for index in indices])).last_hidden_state
            features |= zip(
                indices,
                self.audio_projector(self.audio_downsampler(hidden, [hidden.shape[1]] * len(hidden))),
                strict=True,
            )
        return [features[index] for index in range(len(sounds))]

    def embed(self, input_ids: Tensor, media: MediaBatch) -> Tensor:
        """Token embeddings `[batch, length, width]` with media features in place of their placeholders.

        Raises:
            MediaMismatchError: another number of placeholders than of features, with both counts.
        """
        embeddings: Tensor = self.language_model.get_input_embeddings()(input_ids)
        frames = audio = embeddings.new_zeros(0, embeddings.shape[-1])
        images = frames
        if media.pixels is not None:
            features = self.frame_features(media.pixels)
            frames, images = (
                features[media.video_order].flatten(0, 1),
                features[media.image_order].flatten(0, 1),
            )
        if media.sounds:
            sounds = self.audio_features(media.sounds)
            audio = torch.cat([sounds[index] for index in media.audio_order])
        if self.training:
            embeddings = embeddings + 0.0 * self._absent(media, embeddings)
        for name, placed in (("video", frames), ("image", images), ("audio", audio)):
            embeddings = self._place(name, input_ids, embeddings, placed)
        return embeddings

    def _absent(self, media: MediaBatch, like: Tensor) -> Tensor:
        """Runs each encoder that the batch lacks media for: every rank needs its gradients in every step."""
        total = like.new_zeros(())
        if media.pixels is None:
            size = self.config.frame_size
            total = total + self.frame_features(like.new_zeros(1, 3, size, size)).sum()
        if not media.sounds:
            silence = like.new_zeros(self.config.sample_rate_hz // 10)
            total = total + self.audio_features((silence,))[0].sum()
        return total

    def _place(self, name: str, input_ids: Tensor, embeddings: Tensor, features: Tensor) -> Tensor:
        places = input_ids == getattr(self.config, f"{name}_token_id")
        count = int(places.sum())
        if count != len(features):
            raise MediaMismatchError(f"{count} {name} placeholders but {len(features)} {name} tokens")
        return embeddings.masked_scatter(places.unsqueeze(-1), features.to(embeddings.dtype))

    def forward(
        self,
        input_ids: Tensor,
        media: MediaBatch,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> LlavaAvOutput:
        """Predicts each next token.

        Args:
            input_ids: `[batch, length]` with one placeholder for each media token.
            media: what the placeholders stand for.
            attention_mask: `[batch, length]`, 0 on padding.
            labels: `[batch, length]`, `IGNORE` where nothing is to be predicted.
        """
        embeddings = self.embed(input_ids, media)
        decoder = self.language_model.get_decoder()
        hidden = decoder(
            inputs_embeds=embeddings, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        head = self.language_model.get_output_embeddings()
        if labels is None:
            return LlavaAvOutput(logits=head(hidden))
        targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
        labelled = targets != IGNORE
        # most positions of a media sample are unlabelled, and their logits are never needed
        losses = nn.functional.cross_entropy(
            head(hidden[labelled]).float(), targets[labelled], reduction="none"
        )
        sums = losses.new_zeros(len(labels)).index_add(0, labelled.nonzero()[:, 0], losses)
        return LlavaAvOutput(loss_sums=sums, loss_counts=labelled.sum(1))

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, media: MediaBatch, attention_mask: Tensor, **options: Any
    ) -> Tensor:
        """New tokens `[batch, new]` after left-padded prompts; `options` as in transformers' `generate`."""
        new: Tensor = self.language_model.generate(
            inputs_embeds=self.embed(input_ids, media), attention_mask=attention_mask, **options
        )
        return new
