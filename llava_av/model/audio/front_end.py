"""From a sound to an audio tower's input, by the rules that its checkpoint was trained with.

Nothing here needs weights: how many features a sound gives is known from its number of samples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    FeatureExtractionMixin,
    PreTrainedConfig,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

__all__ = ["LogMelFrontEnd", "SoundFrontEnd", "WaveformFrontEnd", "Window", "build_front_end"]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of a long sound that goes through the tower by itself."""

    start: int
    """First sample."""
    stop: int
    """Sample after the last."""
    skip: int
    """Features of its beginning that the window before gives."""
    keep: int
    """Features after those that are this window's to give."""


class SoundFrontEnd:
    """Checks and prepares sounds, counts their features, and cuts long ones into windows.

    Windows begin at features of the whole sound, so that their features are where those of the whole would
    be, and as many. Of the features that two windows share, the first half is the earlier window's and the
    second half the later one's: each is kept from where it has more sound on both sides.
    """

    sample_rate_hz: int
    """Rate that the tower was trained with, in samples per second."""
    stride: int
    """Samples from one feature to the next."""
    field: int
    """Samples that one feature sees."""
    centre: float
    """Samples from the start of the audio to the centre of the first feature's receptive field."""

    def __init__(self, window_features: int | None, overlap_features: int) -> None:
        if window_features is not None and not 0 <= overlap_features < window_features:
            raise ValueError(
                f"windows of {window_features} features of sound cannot overlap by {overlap_features}"
            )
        self._window = window_features
        self._overlap = overlap_features

    def feature_count(self, samples: int) -> int:
        """Features of so many samples, whether they go through the tower at once or in windows."""
        raise NotImplementedError

    def feature_time_s(self, feature: float) -> float:
        """Return the time of the centre of a feature's receptive field, in seconds from the start."""
        return (self.centre + feature * self.stride) / self.sample_rate_hz

    def prepare(self, sound: np.ndarray, rate_hz: int) -> Tensor:
        """The tower's input from one sound.

        Args:
            sound: `[samples]`, in -1 to 1.
            rate_hz: its samples per second.

        Raises:
            ValueError: another rate than the tower's, no sound, too little for one feature, or samples that
                are not finite; with both numbers.
        """
        raise NotImplementedError

    def silence(self) -> tuple[Tensor, int]:
        """The shortest input, and its samples: for a step in which no sample has sound."""
        raise NotImplementedError

    def windows(self, samples: int) -> list[Window]:
        """How so many samples go through the tower; one window holds all unless they are longer."""
        features = self.feature_count(samples)
        if self._window is None or features <= self._window:
            return [Window(start=0, stop=samples, skip=0, keep=features)]
        hop = self._window - self._overlap
        count = 1 - (self._window - features) // hop
        borders = [0, *(index * hop + self._overlap // 2 for index in range(1, count)), features]
        return [
            Window(
                start=index * hop * self.stride,
                stop=min(samples, (index * hop + self._window - 1) * self.stride + self.field),
                skip=borders[index] - index * hop,
                keep=borders[index + 1] - borders[index],
            )
            for index in range(count)
        ]

    def check(self, sound: np.ndarray, rate_hz: int) -> None:
        """Refuses a sound that the tower cannot take; arguments and errors are those of `prepare`."""
        if rate_hz != self.sample_rate_hz:
            raise ValueError(
                f"a sound of {rate_hz} Hz, but the audio tower was trained with {self.sample_rate_hz} Hz"
            )
        if sound.ndim != 1:
            raise ValueError(
                f"a sound of shape {sound.shape}, but the audio tower takes one channel, [samples]"
            )
        if not self.feature_count(len(sound)):
            raise ValueError(
                f"a sound of {len(sound)} samples, but one feature of the audio tower needs {self.field}"
            )
        bad = int(np.count_nonzero(~np.isfinite(sound)))
        if bad:
            raise ValueError(f"{bad} of {len(sound)} samples of a sound are not finite numbers")


class WaveformFrontEnd(SoundFrontEnd):
    """wav2vec2, HuBERT and WavLM: the waveform, normalised where the checkpoint's was.

    `masked` says that sounds of several lengths may share a batch, padded: their checkpoint was trained with
    an attention mask, and its convolutions normalise over features alone (`feat_extract_norm` is `layer`). A
    group norm is over time, and padding would change every feature.
    """

    def __init__(
        self, config: Any, extractor: Wav2Vec2FeatureExtractor, window_s: float | None, overlap_s: float
    ) -> None:
        if getattr(config, "add_adapter", False):
            raise ValueError(f"add_adapter=True of the {config.model_type} tower: only False is known here")
        self.sample_rate_hz = extractor.sampling_rate
        self.extractor = extractor
        self._convolutions = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.stride, self.field = 1, 1
        for kernel, stride in self._convolutions:
            self.field += (kernel - 1) * self.stride
            self.stride *= stride
        self.centre = self.field / 2
        self.masked: bool = extractor.return_attention_mask and config.feat_extract_norm == "layer"
        per_s = self.sample_rate_hz / self.stride
        window = None if window_s is None else int(window_s * per_s)
        super().__init__(window, round(overlap_s * per_s))

    def feature_count(self, samples: int) -> int:
        """See `SoundFrontEnd` (wav2vec2, arXiv 2006.11477, section 2)."""
        for kernel, stride in self._convolutions:
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    def prepare(self, sound: np.ndarray, rate_hz: int) -> Tensor:
        """See `SoundFrontEnd`; `[samples]`."""
        self.check(sound, rate_hz)
        values = self.extractor(np.asarray(sound, dtype=np.float32), sampling_rate=rate_hz)["input_values"][0]
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def silence(self) -> tuple[Tensor, int]:
        """See `SoundFrontEnd`."""
        return torch.zeros(self.field), self.field


class LogMelFrontEnd(SoundFrontEnd):
    """Whisper's encoder: log-mel windows of the one length that it knows, each zero-padded to it.

    Features behind the end of the sound are dropped.
    """

    def __init__(
        self, config: Any, extractor: WhisperFeatureExtractor, window_s: float | None, overlap_s: float
    ) -> None:
        self.sample_rate_hz = extractor.sampling_rate
        self.extractor = extractor
        # the second of two convolutions has a stride of 2
        self.stride = self.field = 2 * extractor.hop_length
        # log-mel frames and convolutions are padded on both sides, so the first feature's centre is at 0
        self.centre = 0.0
        own_s = extractor.n_samples / extractor.sampling_rate
        if window_s not in (None, own_s):
            raise ValueError(f"window_s={window_s} of sound, but this Whisper encoder's own is {own_s}")
        if extractor.n_samples != config.max_source_positions * self.stride:
            raise ValueError(
                f"a feature extractor for {extractor.n_samples} samples, but a Whisper encoder for "
                f"{config.max_source_positions} features of {self.stride}"
            )
        if extractor.feature_size != config.num_mel_bins:
            raise ValueError(
                f"a feature extractor of {extractor.feature_size} mel bins, but a Whisper encoder of "
                f"{config.num_mel_bins}"
            )
        per_s = self.sample_rate_hz / self.stride
        super().__init__(config.max_source_positions, round(overlap_s * per_s))

    def feature_count(self, samples: int) -> int:
        """See `SoundFrontEnd`; the last feature may see padding, too."""
        return -(-samples // self.stride)

    def prepare(self, sound: np.ndarray, rate_hz: int) -> Tensor:
        """See `SoundFrontEnd`; `[windows, mel bins, frames]`."""
        self.check(sound, rate_hz)
        parts = [
            np.asarray(sound[one.start : one.stop], dtype=np.float32) for one in self.windows(len(sound))
        ]
        values = self.extractor(parts, sampling_rate=rate_hz, return_tensors="np")["input_features"]
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def silence(self) -> tuple[Tensor, int]:
        """See `SoundFrontEnd`."""
        return torch.zeros(1, self.extractor.feature_size, self.extractor.nb_max_frames), 1


_WAVEFORM = ("wav2vec2", "hubert", "wavlm")


def build_front_end(
    config: PreTrainedConfig,
    extractor: FeatureExtractionMixin | None = None,
    *,
    sample_rate_hz: int,
    window_s: float | None = None,
    overlap_s: float = 0.0,
) -> WaveformFrontEnd | LogMelFrontEnd:
    """The front end of an audio tower.

    Args:
        config: the tower's config.
        extractor: the checkpoint's own feature extractor; None for a fresh tower, which gets the usual one.
        sample_rate_hz: rate of the sounds that will come.
        window_s: seconds of sound that go through the tower at once; None: all, or Whisper's own window.
        overlap_s: seconds that neighbouring windows share.

    Raises:
        ValueError: an unknown tower, or settings that do not fit each other, with both.
    """
    kind = config.model_type
    if kind not in (*_WAVEFORM, "whisper"):
        raise ValueError(f"unknown audio tower {kind!r}: one of {', '.join(_WAVEFORM)}, whisper")
    if extractor is None and kind == "whisper":
        extractor = _fresh_log_mel(config, sample_rate_hz)
    elif extractor is None:
        extractor = Wav2Vec2FeatureExtractor(sampling_rate=sample_rate_hz)
    end: WaveformFrontEnd | LogMelFrontEnd
    if kind == "whisper" and isinstance(extractor, WhisperFeatureExtractor):
        end = LogMelFrontEnd(config, extractor, window_s, overlap_s)
    elif kind != "whisper" and isinstance(extractor, Wav2Vec2FeatureExtractor):
        end = WaveformFrontEnd(config, extractor, window_s, overlap_s)
    else:
        raise ValueError(f"a {type(extractor).__name__} does not prepare sound for a {kind} tower")
    if end.sample_rate_hz != sample_rate_hz:
        raise ValueError(
            f"sound of {sample_rate_hz} Hz, but the {kind} tower was trained with {end.sample_rate_hz} Hz"
        )
    return end


def _fresh_log_mel(config: Any, sample_rate_hz: int) -> WhisperFeatureExtractor:
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins, sampling_rate=sample_rate_hz)
    seconds, rest = divmod(config.max_source_positions * 2 * extractor.hop_length, sample_rate_hz)
    if rest or not seconds:
        raise ValueError(
            f"max_source_positions={config.max_source_positions} of the whisper tower is no whole number of "
            f"seconds: {sample_rate_hz // (2 * extractor.hop_length)} positions are one"
        )
    return WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, sampling_rate=sample_rate_hz, chunk_length=seconds
    )
