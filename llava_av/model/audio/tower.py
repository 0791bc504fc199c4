"""Audio tower: wav2vec2, HuBERT, WavLM or Whisper's encoder behind one call."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from llava_av.model.audio.front_end import LogMelFrontEnd, WaveformFrontEnd, build_front_end
from llava_av.model.audio.weight_norm import replace_weight_norm
from llava_av.model.device_waits import known_masks, on_device
from llava_av.model.files.reading import read_pretrained, require_matching

__all__ = ["AudioTower", "build_audio_tower", "load_audio_tower"]

_MASKED = "masked_spec_embed"
# Prefixes of weights in a tower's folder that do not compute features.
_HEADS = ("lm_head.", "quantizer.", "project_hid.", "project_q.", "projector.", "classifier.", "proj_out.")


class AudioTower(nn.Module):
    """Prepared audio in, features of its true length out.

    Layers are never dropped at random (LayerDrop), as all processes have to run the same ones. Audio goes
    through the tower only with audio of the same length, or under a mask that the tower was trained with, so
    padding never changes a feature.
    """

    def __init__(self, model: PreTrainedModel, front_end: WaveformFrontEnd | LogMelFrontEnd) -> None:
        super().__init__()
        replace_weight_norm(model)
        self.model = model
        self.front_end = front_end
        self.equal_calls: Callable[[int], int] | None = None
        """With sharded weights: maps the calls that this process needs to the calls that all make."""
        config = model.config
        _never_drop_layers(model)
        self._augments = getattr(config, "apply_spec_augment", False) and config.mask_time_prob > 0
        if hasattr(model, "masked_spec_embed") and not self._augments:
            # nothing uses it, and distributed training must not wait for its gradient
            model.masked_spec_embed.requires_grad_(False)

    def forward(self, prepared: Sequence[Tensor], samples: Sequence[int]) -> list[Tensor]:
        """Run the tower on each audio array, on long ones in windows.

        Args:
            prepared: Output of the front end for each array.
            samples: Number of samples of each array.

        Returns:
            Features `[feature_count(samples), hidden size]` of each array.
        """
        windows = [self.front_end.windows(count) for count in samples]
        parts: list[Tensor] = []
        for audio, own in zip(prepared, windows, strict=True):
            log_mel = isinstance(self.front_end, LogMelFrontEnd)
            parts += audio.unbind() if log_mel else [audio[one.start : one.stop] for one in own]
        features = iter(self._run(parts))
        return [torch.cat([next(features)[one.skip : one.skip + one.keep] for one in own]) for own in windows]

    def _run(self, parts: list[Tensor]) -> list[Tensor]:
        """Return the features of each part; parts share a call where that changes no number."""
        masked = isinstance(self.front_end, WaveformFrontEnd) and self.front_end.masked
        if masked and len({len(part) for part in parts}) > 1:
            return self._padded(parts)
        by_length: dict[int, list[int]] = {}
        for index, part in enumerate(parts):
            by_length.setdefault(part.shape[-1], []).append(index)
        # all processes have to agree before the first call
        calls = len(by_length) if masked or self.equal_calls is None else self.equal_calls(len(by_length))
        features: dict[int, Tensor] = {}
        for indices in by_length.values():
            batch = torch.stack([parts[index] for index in indices])
            features |= zip(indices, self._features(batch, None), strict=True)
        for _ in range(calls - len(by_length)):
            silence = self._features(parts[0].new_zeros(1, self.front_end.field), None)
            features[0] = features[0] + 0.0 * silence.sum()
        return [features[index] for index in range(len(parts))]

    def _padded(self, parts: list[Tensor]) -> list[Tensor]:
        batch = nn.utils.rnn.pad_sequence(parts, batch_first=True)
        lengths = on_device(torch.tensor([len(part) for part in parts]), batch.device)
        mask = (torch.arange(batch.shape[1], device=batch.device) < lengths[:, None]).long()
        # Parts of different lengths have padding.
        with known_masks(sequences=None, has_padding=True, device=batch.device):
            rows = self._features(batch, mask)
        return [row[: self.front_end.feature_count(len(part))] for row, part in zip(rows, parts, strict=True)]

    def _features(self, batch: Tensor, mask: Tensor | None) -> Tensor:
        if isinstance(self.front_end, LogMelFrontEnd):
            hidden: Tensor = self.model(batch).last_hidden_state
            return hidden
        options: dict[str, Tensor] = {} if mask is None else {"attention_mask": mask}
        features = self.front_end.feature_count(batch.shape[1])
        if self._augments and self.training and features < self.model.config.mask_time_length:
            # audio shorter than one span of SpecAugment is an error in transformers
            options["mask_time_indices"] = torch.zeros(
                len(batch), features, dtype=torch.bool, device=batch.device
            )
        hidden = self.model(batch, **options).last_hidden_state
        return hidden


def _never_drop_layers(model: PreTrainedModel) -> None:
    if model.config.model_type == "whisper":
        encoder: Any = model
        encoder.layerdrop = model.config.encoder_layerdrop = 0.0
    else:
        model.config.layerdrop = 0.0


def build_audio_tower(config: PreTrainedConfig, front_end: WaveformFrontEnd | LogMelFrontEnd) -> AudioTower:
    """Build a tower with fresh weights."""
    architecture: Any = WhisperEncoder if config.model_type == "whisper" else MODEL_MAPPING[type(config)]
    _fall_back_to_eager(config, architecture)
    return AudioTower(architecture._from_config(config), front_end)


def load_audio_tower(
    folder: str | Path, *, sample_rate_hz: int, window_s: float | None = None, overlap_s: float = 0.0
) -> AudioTower:
    """Load a tower in evaluation mode from a Hugging Face folder.

    Heads for another purpose (CTC, pretraining, classification, Whisper's decoder) are left out.

    Raises:
        ValueError: The tower is unknown, its settings do not fit, or weights are missing, left over or differ
            in shape; names them.
    """
    config = read_pretrained(AutoConfig, folder)
    extractor = read_pretrained(AutoFeatureExtractor, folder)
    front_end = build_front_end(
        config, extractor, sample_rate_hz=sample_rate_hz, window_s=window_s, overlap_s=overlap_s
    )
    require_matching(AutoModel, config, folder)
    model, info = read_pretrained(
        AutoModel, folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True
    )
    missing = set(info["missing_keys"])
    if _MASKED in missing:
        # Fine-tuned towers may be saved without it: only SpecAugment reads it, which then masks with zeros.
        model.masked_spec_embed.data.zero_()
        missing.remove(_MASKED)
    sizes = (f"{name} ({[*found]}, not {[*wanted]})" for name, found, wanted in info["mismatched_keys"])
    problems = sorted({*missing, *sizes})
    if problems:
        raise ValueError(f"{folder}: weights of {', '.join(problems[:5])} are missing or of another size")
    left_over = sorted(name for name in info["unexpected_keys"] if not name.startswith(_HEADS))
    if left_over:
        raise ValueError(f"{folder}: weights of {', '.join(left_over[:5])} are unused")
    encoder = model.get_encoder() if config.model_type == "whisper" else model
    return AudioTower(encoder, front_end).eval()


def _fall_back_to_eager(config: PreTrainedConfig, architecture: Any) -> None:
    """Fall back to eager attention where the tower supports no other: WavLM's attention has its own bias."""
    wanted = config._attn_implementation or ""
    support = {"sdpa": "_supports_sdpa", "flex_attention": "_supports_flex_attn"}
    needed = "_supports_flash_attn" if "flash" in wanted else support.get(wanted)
    if needed is not None and not getattr(architecture, needed, False):
        config._attn_implementation = "eager"
