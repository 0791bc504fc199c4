"""Cache of decoded clips with the encoded samples about them; processes may decode ahead of their use."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llava_av.errors import UserError
from llava_av.media.clip import Clip
from llava_av.model import Encoded, LlavaAvProcessor

if TYPE_CHECKING:
    from concurrent.futures import Future

    from llava_av.datasets.schema import Sample

__all__ = ["DecodingProcesses", "EncodedCache", "UnfitSampleError"]


class UnfitSampleError(UserError):
    """A sample that the model cannot take."""


class DecodingProcesses(Protocol):
    """Processes that decode clips, such as `llava_av.training.decode_pool.DecodePool`."""

    clips_ahead: int
    """Number of clips that the processes should have been given."""

    def submit(self, sample: Sample) -> Future[Any]:
        """Start to decode the clip of a sample."""

    def result(self, future: Future[Any], sample: Sample) -> Clip:
        """Return the clip, or raise the MediaError of its decoding."""


# One list element for each ID and each label, and the number that both refer to.
_TOKEN_BYTES = 2 * 8 + 28


class _Entry:
    """A decoded clip with the encoded samples about it."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._decoded = [*(video.frames_nhwc for video in clip.videos), *clip.images_nhwc, *clip.audios]
        self._decoded += [video.audio for video in clip.videos if video.audio is not None]
        self.forget()

    def forget(self) -> None:
        """Drop the encoded samples."""
        self.encoded: dict[str, Encoded] = {}
        self._shortened: list[np.ndarray] = []
        self.nbytes = self.clip.nbytes

    def add(self, sample_id: str, encoded: Encoded) -> None:
        """Keep a sample; several samples share equal shortened media."""
        self.encoded[sample_id] = replace(
            encoded,
            frames_nhwc=list(map(self._shared, encoded.frames_nhwc)),
            images_nhwc=list(map(self._shared, encoded.images_nhwc)),
            audios=list(map(self._shared, encoded.audios)),
        )
        self.nbytes += len(encoded.input_ids) * _TOKEN_BYTES

    def _shared(self, array: np.ndarray) -> np.ndarray:
        if any(array is decoded for decoded in self._decoded):
            return array
        for known in self._shortened:
            if np.array_equal(known, array):
                return known
        self._shortened.append(array)
        self.nbytes += array.nbytes
        return array


class EncodedCache:
    """Least-recently-used cache of decoded clips with their encoded samples, limited in bytes.

    Args:
        processor: Encodes samples.
        load: Decodes a clip in this process.
        max_bytes: Limit of the memory.
        processes: Decode clips instead of `load`.
    """

    def __init__(
        self,
        processor: LlavaAvProcessor,
        load: Callable[[Sample], Clip],
        *,
        max_bytes: int,
        processes: DecodingProcesses | None = None,
    ) -> None:
        self._processor = processor
        self._load = load
        self._max_bytes = max_bytes
        self._processes = processes
        self._expected: deque[Sample] = deque()
        self._decoding: dict[tuple[Any, ...], Future[Any]] = {}
        self._entries: OrderedDict[tuple[Any, ...], _Entry] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Return the memory of the cached clips and encoded samples, in bytes."""
        return self._bytes

    def expect(self, samples: Iterable[Sample]) -> None:
        """Announce samples in the order of their use, so that their clips are decoded ahead."""
        if self._processes is not None:
            self._expected.extend(samples)
            self._decode_ahead(self._processes)

    def get(self, sample: Sample) -> tuple[Encoded, Clip]:
        """Return the encoded sample and its clip; samples that name the same media share one clip.

        Raises:
            MediaError: A file is missing or does not decode.
            UnfitSampleError: The model cannot take the sample.
        """
        key = sample.media_key
        entry = self._entries.pop(key, None)
        self._bytes -= entry.nbytes if entry else 0
        entry = entry or _Entry(self._decoded(sample))
        if sample.id not in entry.encoded:
            if entry.nbytes > self._max_bytes:
                entry.forget()
            entry.add(sample.id, self._encode(sample, entry.clip))
        self._entries[key] = entry
        self._bytes += entry.nbytes
        while self._bytes > self._max_bytes and len(self._entries) > 1:
            self._bytes -= self._entries.popitem(last=False)[1].nbytes
        return entry.encoded[sample.id], entry.clip

    def _decoded(self, sample: Sample) -> Clip:
        if self._processes is None or not sample.has_media:
            return self._load(sample)
        future = self._decoding.pop(sample.media_key, None) or self._processes.submit(sample)
        self._decode_ahead(self._processes)
        return self._processes.result(future, sample)

    def _decode_ahead(self, processes: DecodingProcesses) -> None:
        while self._expected and len(self._decoding) < processes.clips_ahead:
            sample = self._expected.popleft()
            key = sample.media_key
            if key not in self._entries and key not in self._decoding and sample.has_media:
                self._decoding[key] = processes.submit(sample)

    def _encode(self, sample: Sample, clip: Clip) -> Encoded:
        turns = [(turn.speaker, turn.value) for turn in sample.conversations]
        try:
            return self._processor.encode(turns, clip)
        except ValueError as error:
            raise UnfitSampleError(str(error)) from None
