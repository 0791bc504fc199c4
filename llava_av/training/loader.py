"""Batches of one process, made by a thread one step ahead; a cache keeps decoded clips."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llava_av.datasets.unfit import Unfit
from llava_av.errors import UserError
from llava_av.media.clip import Clip
from llava_av.media.info import MediaError
from llava_av.model import Encoded, LlavaAvProcessor
from llava_av.model.batch_layout import BatchLayout
from llava_av.model.sequence.packing import pack_rows
from llava_av.training.micro_batches import SampleCost, plan_micro_batches

if TYPE_CHECKING:
    from llava_av.datasets.schema import Sample
    from llava_av.recipe import TrainingRecipe
    from llava_av.training.order import SampleOrder

__all__ = ["EncodedCache", "LoadedBatch", "Loader", "MicroBatch", "UnfitSampleError", "collate_rows"]


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
        key = sample.media_key
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
            raise UnfitSampleError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Samples of one process in one forward and backward pass."""

    tensors: dict[str, Any]
    """Arguments of the model's `forward`."""
    ids: tuple[str, ...] = ()
    """ID of each sample, in the order of the model's outputs; none if other processes alone have samples."""
    kinds: tuple[str, ...] = ()
    """Question kind of each sample, in the same order."""
    modalities: tuple[str, ...] = ()
    """Modalities of each sample, such as `video_audio`."""
    tokens: int = 0
    """Tokens without padding."""
    layout: BatchLayout | None = None
    """Structure of the tensors; None to read it from their device."""


@dataclass(frozen=True, kw_only=True)
class LoadedBatch:
    """Samples of one process in one optimizer step."""

    step: int
    micro_batches: tuple[MicroBatch, ...]
    """Equally many in all processes."""
    failed: tuple[Unfit, ...] = ()
    """Samples left out because they do not decode."""
    waited_s: float = 0.0
    """Time that training waited for this batch."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the IDs of all samples."""
        return tuple(one for each in self.micro_batches for one in each.ids)


class Loader:
    """Batches of one process; a thread makes the next batch while the current one is used.

    Args:
        samples: All training samples.
        costs: Cost of each sample, from which all processes compute the same micro-batches.
        processor: Collates encoded samples.
        cache: Decodes and encodes samples.
        order: Indices of the samples of each step.
        rank: Rank of this process.
        processes: Number of processes.
        recipe: Sizes of rows and micro-batches.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        costs: Sequence[SampleCost],
        processor: LlavaAvProcessor,
        cache: EncodedCache,
        order: SampleOrder,
        recipe: TrainingRecipe,
        *,
        rank: int,
        processes: int,
    ) -> None:
        self._samples = samples
        self._costs = costs
        self._processor = processor
        self._cache = cache
        self._order = order
        self._recipe = recipe
        self._rank = rank
        self._processes = processes

    def batches(self, steps: range) -> Iterator[LoadedBatch]:
        """Yield the batches of `steps`, which have no gaps."""
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            ahead = [pool.submit(self.load, step) for step in steps[:1]]
            for step in steps:
                asked = time.monotonic()
                batch = ahead.pop().result()
                waited_s = time.monotonic() - asked
                if step + 1 in steps:
                    ahead.append(pool.submit(self.load, step + 1))
                yield replace(batch, waited_s=waited_s)

    def load(self, step: int) -> LoadedBatch:
        """Decode, encode and collate this process's samples of a step."""
        indices = self._order.step(step)
        plan = plan_micro_batches(
            [self._costs[index] for index in indices],
            processes=self._processes,
            pack_length=self._recipe.pack_length,
            micro_batch_tokens=self._recipe.micro_batch_tokens,
        )
        failed: list[Unfit] = []
        loaded = [
            self._micro_batch([indices[place] for row in rows for place in row], failed)
            for rows in plan[self._rank]
        ]
        return LoadedBatch(step=step, micro_batches=tuple(loaded), failed=tuple(failed))

    def _micro_batch(self, indices: Sequence[int], failed: list[Unfit]) -> MicroBatch:
        chosen: list[tuple[Sample, Encoded, Clip]] = []
        for index in indices:
            sample = self._samples[index]
            try:
                chosen.append((sample, *self._get(sample)))
            except (MediaError, UnfitSampleError) as error:
                failed.append(Unfit(id=sample.id, reason=str(error)))
        if not chosen:
            tensors, _ = self._collated([self._processor.without_label()])
            return MicroBatch(tensors=tensors, layout=BatchLayout.of(self._processor.config, tensors))
        tensors, order = self._collated([encoded for _, encoded, _ in chosen])
        return MicroBatch(
            tensors=tensors,
            ids=tuple(chosen[place][0].id for place in order),
            kinds=tuple(chosen[place][0].kind for place in order),
            modalities=tuple(chosen[place][2].modalities() for place in order),
            tokens=sum(len(encoded.input_ids) for _, encoded, _ in chosen),
            layout=BatchLayout.of(self._processor.config, tensors),
        )

    def _get(self, sample: Sample) -> tuple[Encoded, Clip]:
        encoded, clip = self._cache.get(sample)
        length = self._recipe.pack_length
        if length is not None and len(encoded.input_ids) > length:
            raise UnfitSampleError(f"{len(encoded.input_ids)} tokens, but training.pack_length={length}")
        return encoded, clip

    def _collated(self, encoded: Sequence[Encoded]) -> tuple[dict[str, Any], list[int]]:
        length = self._recipe.pack_length
        # Lengths are known exactly now; those of the plan may come from headers.
        tensors, order = collate_rows(self._processor, encoded, length, padded_length=length)
        if torch.cuda.is_available():
            # From pinned memory, a GPU copies while the host continues.
            tensors = {name: value.pin_memory() for name, value in tensors.items()}
        return tensors, order


def collate_rows(
    processor: LlavaAvProcessor,
    encoded: Sequence[Encoded],
    pack_length: int | None,
    *,
    padded_length: int | None = None,
) -> tuple[dict[str, Any], list[int]]:
    """Return the tensors of a batch, and the place of each of their samples in `encoded`.

    Args:
        processor: Collates encoded samples.
        encoded: Samples of the batch, none longer than a row.
        pack_length: Tokens of a row into which samples are packed; None: one sample per row.
        padded_length: Length that packed rows are padded to; None: that of the longest row.
    """
    if pack_length is None:
        return processor.collate(encoded), list(range(len(encoded)))
    rows = pack_rows([len(one.input_ids) for one in encoded], pack_length)
    packed = processor.collate_packed(
        [[encoded[place] for place in row] for row in rows], length=padded_length
    )
    return packed, [place for row in rows for place in row]
