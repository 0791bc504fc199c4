"""Input of an audio tower from decoded audio, by the rules of the tower's training.

Nothing here needs weights: the number of features follows from the number of samples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    FeatureExtractionMixin,
    PreTrainedConfig,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from llava_av.model.configuration import LlavaAvConfig

__all__ = [
    "AudioArray",
    "AudioFrontEnd",
    "AudioWindow",
    "LogMelFrontEnd",
    "WaveformFrontEnd",
    "build_front_end",
    "front_end_of",
]

AudioArray = npt.NDArray[np.float32]
"""Mono audio `[samples]` in -1 to 1."""


@dataclass(frozen=True, kw_only=True)
class AudioWindow:
    """Range of long audio that goes through the tower separately."""

    start: int
    """First sample."""
    stop: int
    """Sample after the last."""
    skip: int
    """Features at the start that come from the previous window instead."""
    keep: int
    """Features after those that come from this window."""


class AudioFrontEnd:
    """Checks and prepares audio, counts its features, and splits long audio into windows.

    Windows start at features of the whole audio, so their features have the positions and the number of those
    of the whole. Of the features that two windows share, the first half comes from the earlier window and the
    second half from the later one: each comes from the window with more context on both sides.
    """

    sample_rate_hz: int
    """Sample rate of the tower's training, in samples per second."""
    stride: int
    """Samples from one feature to the next."""
    field: int
    """Receptive field of one feature in samples."""
    centre: float
    """Samples from the start of the audio to the centre of the first feature's receptive field."""

    def __init__(self, window_features: int | None, overlap_features: int) -> None:
        if window_features is not None and not 0 <= overlap_features < window_features:
            raise ValueError(
                f"audio windows of {window_features} features cannot overlap by {overlap_features}: set "
                "audio_overlap_s below audio_window_s"
            )
        self._window = window_features
        self._overlap = overlap_features

    def feature_count(self, samples: int) -> int:
        """Return the number of features of audio samples, in one window or several."""
        raise NotImplementedError

    def feature_time_s(self, feature: float) -> float:
        """Return the centre of a feature's receptive field in seconds from the start."""
        return (self.centre + feature * self.stride) / self.sample_rate_hz

    def prepare(self, audio: AudioArray, rate_hz: int) -> Tensor:
        """Return the tower's input for one audio array.

        Args:
            audio: `[samples]`, in -1 to 1.
            rate_hz: Samples per second.

        Raises:
            ValueError: The rate differs from the tower's, the array is not one channel, is too short for one
                feature, or holds samples that are not finite; names both numbers.
        """
        raise NotImplementedError

    def silence(self) -> tuple[Tensor, int]:
        """Return the shortest input and its number of samples, for a step in which no sample has audio."""
        raise NotImplementedError

    def windows(self, samples: int) -> list[AudioWindow]:
        """Return the windows in which audio samples go through the tower; one if they fit."""
        features = self.feature_count(samples)
        if self._window is None or features <= self._window:
            return [AudioWindow(start=0, stop=samples, skip=0, keep=features)]
        hop = self._window - self._overlap
        count = 1 - (self._window - features) // hop
        borders = [0, *(index * hop + self._overlap // 2 for index in range(1, count)), features]
        return [
            AudioWindow(
                start=index * hop * self.stride,
                stop=min(samples, (index * hop + self._window - 1) * self.stride + self.field),
                skip=borders[index] - index * hop,
                keep=borders[index + 1] - borders[index],
            )
            for index in range(count)
        ]

    def check(self, audio: AudioArray, rate_hz: int) -> None:
        """Check that the tower can take an audio array; arguments and errors are those of `prepare`."""
        if rate_hz != self.sample_rate_hz:
            raise ValueError(
                f"audio of {rate_hz} Hz does not fit the audio tower, which was trained with "
                f"{self.sample_rate_hz} Hz: resample it"
            )
        if audio.ndim != 1:
            raise ValueError(
                f"audio of shape {audio.shape} does not fit the audio tower, which accepts one channel, "
                "[samples]"
            )
        if not self.feature_count(len(audio)):
            raise ValueError(
                f"audio of {len(audio)} samples is too short: one feature of the audio tower needs "
                f"{self.field}"
            )
        bad = int(np.count_nonzero(~np.isfinite(audio)))
        if bad:
            raise ValueError(f"{bad} of {len(audio)} audio samples are not finite numbers")


class WaveformFrontEnd(AudioFrontEnd):
    """Waveforms for wav2vec2, HuBERT and WavLM, normalised as in the checkpoint's training.

    If `masked` is true, audio of several lengths may share a padded batch: the checkpoint was trained with an
    attention mask, and its convolutions normalise over features only (`feat_extract_norm` is `layer`). A
    group norm is over time, and padding would change every feature.
    """

    def __init__(
        self, config: Any, extractor: Wav2Vec2FeatureExtractor, window_s: float | None, overlap_s: float
    ) -> None:
        if getattr(config, "add_adapter", False):
            raise ValueError(
                f"add_adapter=True of the {config.model_type} tower is not supported, must be False"
            )
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
        """Count as the convolutions do (wav2vec2, arXiv 2006.11477, section 2)."""
        for kernel, stride in self._convolutions:
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    def prepare(self, audio: AudioArray, rate_hz: int) -> Tensor:
        """Return the waveform `[samples]`."""
        self.check(audio, rate_hz)
        values = self.extractor(np.asarray(audio, dtype=np.float32), sampling_rate=rate_hz)["input_values"][0]
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def silence(self) -> tuple[Tensor, int]:
        """Return a waveform of one feature."""
        return torch.zeros(self.field), self.field


class LogMelFrontEnd(AudioFrontEnd):
    """Log-mel windows for Whisper's encoder, each zero-padded to the encoder's one length.

    Features behind the end of the audio are dropped.
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
            raise ValueError(
                f"audio_window_s={window_s} does not fit this Whisper encoder, whose window is {own_s} s: "
                "remove audio_window_s"
            )
        if extractor.n_samples != config.max_source_positions * self.stride:
            raise ValueError(
                f"the feature extractor has windows of {extractor.n_samples} samples, but the Whisper "
                f"encoder takes {config.max_source_positions} features of {self.stride} samples"
            )
        if extractor.feature_size != config.num_mel_bins:
            raise ValueError(
                f"the feature extractor has {extractor.feature_size} mel bins, but the Whisper encoder takes "
                f"{config.num_mel_bins}"
            )
        per_s = self.sample_rate_hz / self.stride
        super().__init__(config.max_source_positions, round(overlap_s * per_s))

    def feature_count(self, samples: int) -> int:
        """Count features; the last may include padding."""
        return -(-samples // self.stride)

    def prepare(self, audio: AudioArray, rate_hz: int) -> Tensor:
        """Return log-mel windows `[windows, mel bins, frames]`."""
        self.check(audio, rate_hz)
        parts = [
            np.asarray(audio[window.start : window.stop], dtype=np.float32)
            for window in self.windows(len(audio))
        ]
        values = self.extractor(parts, sampling_rate=rate_hz, return_tensors="np")["input_features"]
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def silence(self) -> tuple[Tensor, int]:
        """Return one empty log-mel window, of one sample."""
        return torch.zeros(1, self.extractor.feature_size, self.extractor.nb_max_frames), 1


_WAVEFORM = ("wav2vec2", "hubert", "wavlm")


def front_end_of(config: LlavaAvConfig) -> WaveformFrontEnd | LogMelFrontEnd:
    """Build the front end of a model's audio tower.

    Raises:
        ValueError: See `build_front_end`.
    """
    settings = config.audio_extractor
    extractor = None
    if settings is not None:
        whisper = config.audio_config.model_type == "whisper"
        extractor = (WhisperFeatureExtractor if whisper else Wav2Vec2FeatureExtractor)(**settings)
    return build_front_end(
        config.audio_config,
        extractor,
        sample_rate_hz=config.sample_rate_hz,
        window_s=config.audio_window_s,
        overlap_s=config.audio_overlap_s,
    )


def build_front_end(
    config: PreTrainedConfig,
    extractor: FeatureExtractionMixin | None = None,
    *,
    sample_rate_hz: int,
    window_s: float | None = None,
    overlap_s: float = 0.0,
) -> WaveformFrontEnd | LogMelFrontEnd:
    """Build the front end of an audio tower.

    Args:
        config: Hugging Face config of the tower.
        extractor: Feature extractor of the checkpoint; None: the default one of the tower's family.
        sample_rate_hz: Sample rate of the decoded audio.
        window_s: Seconds of audio per call of the tower; None: all of it, or Whisper's own window.
        overlap_s: Seconds that neighbouring windows share.

    Raises:
        ValueError: The tower is unknown, or settings contradict each other; names both.
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
        raise ValueError(f"a {type(extractor).__name__} cannot prepare audio for a {kind} tower")
    if end.sample_rate_hz != sample_rate_hz:
        raise ValueError(
            f"sample_rate_hz={sample_rate_hz} does not fit the {kind} tower, which was trained with "
            f"{end.sample_rate_hz} Hz"
        )
    return end


def _fresh_log_mel(config: Any, sample_rate_hz: int) -> WhisperFeatureExtractor:
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins, sampling_rate=sample_rate_hz)
    seconds, rest = divmod(config.max_source_positions * 2 * extractor.hop_length, sample_rate_hz)
    if rest or not seconds:
        raise ValueError(
            f"max_source_positions={config.max_source_positions} of the whisper tower must be a whole number "
            f"of seconds: {sample_rate_hz // (2 * extractor.hop_length)} positions are one"
        )
    return WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, sampling_rate=sample_rate_hz, chunk_length=seconds
    )
