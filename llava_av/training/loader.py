"""Batches of one process, made by a thread one step ahead; a cache keeps decoded clips."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llava_av.datasets.schema import Sample
from llava_av.errors import UserError
from llava_av.media.clip import Clip
from llava_av.model import Encoded, LlavaAvProcessor
from llava_av.model.sequence.packing import pack_rows
from llava_av.training.order import SampleOrder

__all__ = ["EncodedCache", "LoadedBatch", "UnfitSampleError", "batches"]


class UnfitSampleError(UserError):
    """A sample that the model cannot take."""


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
    """Least-recently-used cache of decoded clips with their encoded samples, limited in bytes."""

    def __init__(
        self, processor: LlavaAvProcessor, load: Callable[[Sample], Clip], *, max_bytes: int
    ) -> None:
        self._processor = processor
        self._load = load
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[Any, ...], _Entry] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Return the memory of the cached clips and encoded samples, in bytes."""
        return self._bytes

    def get(self, sample: Sample) -> tuple[Encoded, Clip]:
        """Return the encoded sample and its clip; samples that name the same media share one clip.

        Raises:
            MediaError: A file is missing or does not decode.
            UnfitSampleError: The model cannot take the sample.
        """
        media = (sample.image, sample.video, sample.audio)
        # Samples without media share no clip.
        key = (*media, sample.use_audio) if any(media) else (sample.id,)
        entry = self._entries.pop(key, None)
        self._bytes -= entry.nbytes if entry else 0
        entry = entry or _Entry(self._load(sample))
        if sample.id not in entry.encoded:
            if entry.nbytes > self._max_bytes:
                entry.forget()
            entry.add(sample.id, self._encode(sample, entry.clip))
        self._entries[key] = entry
        self._bytes += entry.nbytes
        while self._bytes > self._max_bytes and len(self._entries) > 1:
            self._bytes -= self._entries.popitem(last=False)[1].nbytes
        return entry.encoded[sample.id], entry.clip

    def _encode(self, sample: Sample, clip: Clip) -> Encoded:
        turns = [(turn.speaker, turn.value) for turn in sample.conversations]
        try:
            return self._processor.encode(turns, clip)
        except ValueError as error:
            raise UnfitSampleError(f"sample {sample.id}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class LoadedBatch:
    """Samples of one process in one optimizer step."""

    step: int
    tensors: dict[str, Any]
    """Arguments of the model's `forward`."""
    ids: tuple[str, ...]
    """ID of each sample, in the order of the model's outputs."""
    kinds: tuple[str, ...]
    """Question kind of each sample, in the same order."""
    modalities: tuple[str, ...]
    """Modalities of each sample, such as `video_audio`."""
    tokens: int
    """Tokens without padding."""
    waited_s: float = 0.0
    """Time that training waited for this batch."""


def batches(
    samples: Sequence[Sample],
    processor: LlavaAvProcessor,
    cache: EncodedCache,
    order: SampleOrder,
    *,
    steps: range,
    rank: int,
    processes: int,
    pack_length: int | None = None,
) -> Iterator[LoadedBatch]:
    """Yield the batches of `steps`; a thread makes the next batch while the current one is used.

    Args:
        samples: The whole train split.
        processor: Collates encoded samples.
        cache: Decodes and encodes samples.
        order: Indices of the samples of each step.
        steps: Optimizer steps, without gaps.
        rank: Rank of this process, which gets a contiguous part of each step.
        processes: Number of processes.
        pack_length: Tokens of a row into which samples are packed; None: one sample per row.
    """

    def load(step: int) -> LoadedBatch:
        indices = order.step(step)
        share = len(indices) // processes
        mine = [samples[index] for index in indices[rank * share : (rank + 1) * share]]
        return _load_batch(step, mine, processor, cache, pack_length)

    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        ahead = [pool.submit(load, step) for step in steps[:1]]
        for step in steps:
            asked = time.monotonic()
            batch = ahead.pop().result()
            waited_s = time.monotonic() - asked
            if step + 1 in steps:
                ahead.append(pool.submit(load, step + 1))
            yield replace(batch, waited_s=waited_s)


def _load_batch(
    step: int,
    samples: Sequence[Sample],
    processor: LlavaAvProcessor,
    cache: EncodedCache,
    pack_length: int | None,
) -> LoadedBatch:
    pairs = [cache.get(sample) for sample in samples]
    encoded = [one for one, _ in pairs]
    order = list(range(len(samples)))
    if pack_length is None:
        tensors = processor.collate(encoded)
    else:
        lengths = [len(one.input_ids) for one in encoded]
        try:
            rows = pack_rows(lengths, pack_length)
        except ValueError as error:
            longest = samples[lengths.index(max(lengths))]
            raise UnfitSampleError(f"sample {longest.id}: {error}") from None
        tensors = processor.collate_packed([[encoded[index] for index in row] for row in rows])
        order = [index for row in rows for index in row]
    return LoadedBatch(
        step=step,
        tensors=tensors,
        ids=tuple(samples[index].id for index in order),
        kinds=tuple(samples[index].kind for index in order),
        modalities=tuple(pairs[index][1].modalities() for index in order),
        tokens=sum(len(one.input_ids) for one in encoded),
    )
