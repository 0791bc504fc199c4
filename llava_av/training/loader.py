"""Batches of one process: made ahead of need in a thread, each clip decoded once while memory lasts."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from llava_av.datasets.schema import Sample
from llava_av.errors import UserError
from llava_av.media.clip import Clip
from llava_av.model import Encoded, LlavaAvProcessor
from llava_av.model.packing import pack_rows
from llava_av.training.order import SampleOrder

__all__ = ["EncodedCache", "LoadedBatch", "UnfitSampleError", "batches"]


class UnfitSampleError(UserError):
    """A sample that the model cannot take; says which and why."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    clip: Clip
    encoded: dict[str, Encoded] = field(default_factory=dict)


class EncodedCache:
    """Decoded clips with their encoded samples, the least recently used dropped beyond a number of bytes."""

    def __init__(
        self, processor: LlavaAvProcessor, load: Callable[[Sample], Clip], *, max_bytes: int
    ) -> None:
        self._processor = processor
        self._load = load
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[Any, ...], _Entry] = OrderedDict()
        self._bytes = 0

    def get(self, sample: Sample) -> tuple[Encoded, Clip]:
        """The sample, encoded, and its clip; samples that name the same media share one clip.

        Raises:
            MediaError: a file is missing or does not decode.
            UnfitSampleError: the model does not take such a sample.
        """
        key = (sample.image, sample.video, sample.audio, sample.use_audio)
        entry = self._entries.pop(key, None)
        if entry is None:
            entry = _Entry(clip=self._load(sample))
            self._bytes += entry.clip.nbytes
        self._entries[key] = entry
        while self._bytes > self._max_bytes and len(self._entries) > 1:
            _, dropped = self._entries.popitem(last=False)
            self._bytes -= dropped.clip.nbytes
        if sample.id not in entry.encoded:
            turns = [(turn.speaker, turn.value) for turn in sample.conversations]
            try:
                entry.encoded[sample.id] = self._processor.encode(turns, entry.clip)
            except ValueError as error:
                raise UnfitSampleError(f"sample {sample.id}: {error}") from None
        return entry.encoded[sample.id], entry.clip


@dataclass(frozen=True, kw_only=True)
class LoadedBatch:
    """One process's share of one optimizer step."""

    step: int
    tensors: dict[str, Any]
    """Arguments of the model's `forward`."""
    kinds: tuple[str, ...]
    """Question kind of each sample, as the model numbers them."""
    modalities: tuple[str, ...]
    """Modalities of each sample, such as `video_audio`."""
    tokens: int
    """Tokens without padding."""
    waited_s: float = 0.0
    """Time for which training had to wait for this batch."""


def batches(
    samples: Sequence[Sample],
    processor: LlavaAvProcessor,
    cache: EncodedCache,
    order: SampleOrder,
    *,
    steps: range,
    rank: int,
    processes: int,
    packing_tokens: int | None = None,
) -> Iterator[LoadedBatch]:
    """The batches of `steps`, the next one made while the present one is used.

    Args:
        samples: the whole train split.
        processor: pads.
        cache: decodes and encodes.
        order: of the samples.
        steps: optimizer steps to give, without gaps.
        rank: of this process; it gets a contiguous share of each step.
        processes: number of processes.
        packing_tokens: tokens of a row into which samples are packed; None: each sample has a row.
    """

    def load(step: int) -> LoadedBatch:
        indices = order.step(step)
        share = len(indices) // processes
        mine = [samples[index] for index in indices[rank * share : (rank + 1) * share]]
        return _load_batch(step, mine, processor, cache, packing_tokens)

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
    packing_tokens: int | None,
) -> LoadedBatch:
    pairs = [cache.get(sample) for sample in samples]
    encoded = [one for one, _ in pairs]
    order = list(range(len(samples)))
    if packing_tokens is None:
        tensors = processor.collate(encoded)
    else:
        lengths = [len(one.input_ids) for one in encoded]
        try:
            rows = pack_rows(lengths, packing_tokens)
        except ValueError as error:
            longest = samples[lengths.index(max(lengths))]
            raise UnfitSampleError(f"sample {longest.id}: {error}") from None
        tensors = processor.collate_packed([[encoded[index] for index in row] for row in rows])
        order = [index for row in rows for index in row]
    return LoadedBatch(
        step=step,
        tensors=tensors,
        kinds=tuple(samples[index].kind for index in order),
        modalities=tuple(pairs[index][1].modalities() for index in order),
        tokens=sum(len(one.input_ids) for one in encoded),
    )
