"""Batches of one process, made by a thread one step ahead.

Processes that decode get the clips of some more steps in the order of their use, so that a long one holds up
no batch before its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from llava_av.datasets.unfit import Unfit
from llava_av.media.clip import Clip
from llava_av.media.info import MediaError
from llava_av.model import Encoded, LlavaAvProcessor
from llava_av.model.batch_layout import BatchLayout
from llava_av.model.sequence.packing import pack_rows
from llava_av.training.encoded_cache import EncodedCache, UnfitSampleError
from llava_av.training.micro_batches import SampleCost, plan_micro_batches
from llava_av.training.step_meter import StepMeter

if TYPE_CHECKING:
    from llava_av.datasets.media_stream import MediaStream
    from llava_av.datasets.schema import Sample
    from llava_av.recipe import TrainingRecipe
    from llava_av.training.order import SampleOrder

__all__ = ["LoadedBatch", "Loader", "MicroBatch", "collate_rows"]

# Enough to hide a clip that takes as long as several steps.
_STEPS_AHEAD = 4


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
        costs: Cost of each sample, from which all processes compute the same micro-batches, or a meter of the
            costs of each step.
        processor: Collates encoded samples.
        cache: Decodes and encodes samples.
        order: Indices of the samples of each step.
        stream: Fetches the media of the next steps; None if they are at hand.
        rank: Rank of this process.
        processes: Number of processes.
        recipe: Sizes of rows and micro-batches.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        costs: Sequence[SampleCost] | StepMeter,
        processor: LlavaAvProcessor,
        cache: EncodedCache,
        order: SampleOrder,
        recipe: TrainingRecipe,
        *,
        rank: int,
        processes: int,
        stream: MediaStream | None = None,
    ) -> None:
        self._samples = samples
        self._costs = costs
        self._processor = processor
        self._cache = cache
        self._order = order
        self._recipe = recipe
        self._rank = rank
        self._processes = processes
        self._stream = stream
        self._planned: dict[int, list[list[int]]] = {}
        self._unfit: dict[int, list[Unfit]] = {}
        self._announced = 0

    def batches(self, steps: range) -> Iterator[LoadedBatch]:
        """Yield the batches of `steps`, which have no gaps."""
        self._announced = steps.start
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            ahead = [pool.submit(self._load_ahead, step, steps.stop) for step in steps[:1]]
            for step in steps:
                asked = time.monotonic()
                batch = ahead.pop().result()
                waited_s = time.monotonic() - asked
                if step + 1 in steps:
                    ahead.append(pool.submit(self._load_ahead, step + 1, steps.stop))
                yield replace(batch, waited_s=waited_s)

    def load(self, step: int) -> LoadedBatch:
        """Decode, encode and collate this process's samples of a step."""
        planned = self._planned.pop(step, None) or self._plan(step)
        failed = self._unfit.pop(step, [])
        loaded = [self._micro_batch(indices, failed) for indices in planned]
        return LoadedBatch(step=step, micro_batches=tuple(loaded), failed=tuple(failed))

    def _load_ahead(self, step: int, stop: int) -> LoadedBatch:
        """Load a step once the clips of the next ones are announced."""
        while self._announced < min(step + 1 + _STEPS_AHEAD, stop):
            planned = self._planned[self._announced] = self._plan(self._announced)
            expected = [index for indices in planned for index in indices]
            if self._stream is not None:
                uses = self._order.next_uses(self._announced)
                self._stream.expect(
                    self._announced, ((self._samples[index], uses[index]) for index in expected)
                )
            self._cache.expect(self._samples[index] for index in expected)
            self._announced += 1
        batch = self.load(step)
        if self._stream is not None:
            self._stream.finish(step)
        return batch

    def _plan(self, step: int) -> list[list[int]]:
        """Return the indices of this process's samples in each of its micro-batches of a step."""
        indices, costs = self._fit(step)
        if not costs:
            return [[]]
        plan = plan_micro_batches(
            costs,
            processes=self._processes,
            pack_length=self._recipe.pack_length,
            micro_batch_tokens=self._recipe.micro_batch_tokens,
        )
        return [[indices[place] for row in rows for place in row] for rows in plan[self._rank]]

    def _fit(self, step: int) -> tuple[list[int], list[SampleCost]]:
        """Return the samples of a step that the model can take, and their costs."""
        indices = self._order.step(step)
        if not isinstance(self._costs, StepMeter):
            return indices, [self._costs[index] for index in indices]
        found = list(zip(indices, self._costs.costs(indices), strict=True))
        if self._rank == 0:
            self._unfit[step] = [cost for _, cost in found if isinstance(cost, Unfit)]
        fit = [(index, cost) for index, cost in found if isinstance(cost, SampleCost)]
        return [index for index, _ in fit], [cost for _, cost in fit]

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
