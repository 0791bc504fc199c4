"""Held-out loss: the mean loss per labelled token of samples that training never draws.

All processes measure together: each of n processes takes every n-th chunk of the samples, and all call the
model equally often, as sharded weights require. A measurement changes nothing in the training: weights,
random states and the position in the data stay as they are.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule

from llava_av.datasets.loading import load_from
from llava_av.datasets.media_source import MediaSource
from llava_av.datasets.schema import Sample
from llava_av.errors import printable
from llava_av.media.clip import Clip
from llava_av.media.container import MediaError
from llava_av.model import Encoded, LlavaAvForConditionalGeneration, LlavaAvProcessor
from llava_av.recipe import Recipe
from llava_av.training.bad_samples import fit_samples
from llava_av.training.encoded_cache import EncodedCache, UnfitSampleError
from llava_av.training.engines import Engine
from llava_av.training.job_context import JobContext, TrainingData
from llava_av.training.loader import collate_rows
from llava_av.training.random_state import random_state, set_random_state

__all__ = ["HELD_OUT_LOSS", "Validator", "build_validator"]

_LOG = logging.getLogger(__name__)

HELD_OUT_LOSS = "held_out/loss"
"""Metric with the mean over all held-out samples; the means of modalities and datasets add a suffix."""
_SAMPLES_PER_CALL = 8
_CACHE_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """An encoded sample with its clip."""

    sample: Sample
    encoded: Encoded
    clip: Clip


class Validator:
    """Measures the held-out loss of a model in training; all processes call it together."""

    def __init__(
        self,
        engine: Engine,
        processor: LlavaAvProcessor,
        load: Callable[[Sample], Clip],
        samples: Sequence[Sample],
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        """Keep what a measurement needs.

        Args:
            engine: Engine with the model.
            processor: Encodes and collates samples.
            load: Decodes the clip of a sample.
            samples: Held-out samples, at least one; equal in all processes.
            recipe: The run's recipe.
            device: Device of the model.
        """
        self._engine = engine
        self._processor = processor
        self._cache = EncodedCache(processor, load, max_bytes=_CACHE_BYTES)
        self._samples = samples
        self._pack_length = recipe.training.pack_length
        self._device = device

    def measure(self) -> dict[str, float]:
        """Return the loss in nats per labelled token and the duration in seconds.

        The loss is measured overall, by modality and by dataset.
        """
        started = time.monotonic()
        sums: dict[str, tuple[float, float]] = {}
        with _evaluating(self._engine.model), contextlib.closing(self._chunks()) as chunks:
            for chunk in chunks:
                for name, loss, labels in self._losses(chunk):
                    before = sums.get(name, (0.0, 0.0))
                    sums[name] = (before[0] + loss, before[1] + labels)
        means = _means_of_processes(sums)
        return {**means, "validation_s": time.monotonic() - started}

    def _chunks(self) -> Generator[list[_Decoded]]:
        """Yield this process's chunks; a thread decodes the next one while the current one is used."""
        rank, processes = distributed.get_rank(), distributed.get_world_size()
        calls = -(-len(self._samples) // (processes * _SAMPLES_PER_CALL))
        with ThreadPoolExecutor(1, thread_name_prefix="validation") as pool:
            ahead = pool.submit(self._chunk, rank)
            for call in range(calls):
                chunk = ahead.result()
                if call + 1 < calls:
                    ahead = pool.submit(self._chunk, (call + 1) * processes + rank)
                yield chunk

    def _chunk(self, number: int) -> list[_Decoded]:
        """Return the samples of a chunk that decode; the last chunks may have none."""
        found = []
        for sample in self._samples[number * _SAMPLES_PER_CALL : (number + 1) * _SAMPLES_PER_CALL]:
            try:
                encoded, clip = self._cache.get(sample)
            except (MediaError, UnfitSampleError) as error:
                _LOG.warning("left out: held-out sample %s: %s", printable(sample.id), printable(str(error)))
            else:
                found.append(_Decoded(sample=sample, encoded=encoded, clip=clip))
        return found

    def _losses(self, chunk: Sequence[_Decoded]) -> list[tuple[str, float, float]]:
        """Return name, sum of losses and number of labelled tokens for each mean that a sample is part of."""
        # All processes call the model equally often.
        encoded = [one.encoded for one in chunk] or [self._processor.without_label()]
        tensors, order = collate_rows(self._processor, encoded, self._pack_length)
        output = self._engine.model(**{name: value.to(self._device) for name, value in tensors.items()})
        losses, labels = output.loss_sums.double().tolist(), output.loss_counts.double().tolist()
        return [
            (name, loss, count)
            for index, loss, count in zip(order, losses, labels, strict=True)
            if chunk
            for name in _means(chunk[index].sample, chunk[index].clip.modalities())
        ]


def build_validator(
    job: JobContext,
    engine: Engine,
    processor: LlavaAvProcessor,
    data: TrainingData,
    media: MediaSource,
    device: torch.device,
) -> Validator | None:
    """Return the validator, or None if the recipe has no `validation_interval`.

    All processes call it together. Samples that the model cannot take are left out with a warning. The share
    of a few drawn samples says little about the dataset, so `data.max_bad_share` does not apply to it: the
    evaluation of the run applies it to the whole held-out split.

    Args:
        job: The job.
        engine: Engine with the model.
        processor: Processor of the model.
        data: Samples of the datasets.
        media: Media of the samples.
        device: Device of the model.

    Raises:
        UnfitSamplesError: The model can take none of the samples.
    """
    recipe = job.recipe
    if recipe.training.validation_interval is None:
        return None
    by_dataset: dict[str, list[Sample]] = {}
    for sample in data.held_out:
        by_dataset.setdefault(sample.dataset, []).append(sample)
    most = recipe.training.validation_samples
    chosen = [sample for own in by_dataset.values() for sample in _choose(own, most, recipe.seed)]
    named = "held-out samples of training.validation_samples"
    samples, _, _ = fit_samples(recipe, media, chosen, processor, max_share=1.0, what=named)
    bad, drawn = len(chosen) - len(samples), len(chosen)
    if bad and job.is_rank_zero:
        _LOG.warning("%d of %d %s (%.0f %%) do not fit the model", bad, drawn, named, 100 * bad / drawn)
    load = partial(load_from, media, recipe=recipe.media, resizing=processor.image_resizing())
    return Validator(engine, processor, load, samples, recipe, device)


def _choose(samples: Sequence[Sample], most: int | None, seed: int) -> tuple[Sample, ...]:
    """Return at most `most` samples, the same in each process and for each measurement of a run."""
    if most is None or len(samples) <= most:
        return tuple(samples)
    chosen = np.random.default_rng([seed, 0x4E1D]).permutation(len(samples))[:most]
    return tuple(samples[index] for index in sorted(chosen))


def _means(sample: Sample, modality: str) -> tuple[str, ...]:
    """Return the names of the means that a sample is part of."""
    whole = (HELD_OUT_LOSS, f"{HELD_OUT_LOSS}/modality/{modality}")
    return (*whole, f"{HELD_OUT_LOSS}/dataset/{sample.dataset}") if sample.dataset else whole


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Set the parts of a model to eval mode without gradients, and restore its mode and all random states.

    The model itself keeps its training mode, in which it also runs the parts that a process has no media for:
    processes with sharded weights must call all parts together.
    """
    was_training, state = model.training, random_state()
    model.train(False)
    for module in model.modules():
        if isinstance(module, LlavaAvForConditionalGeneration):
            module.training = True
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
        # Without a backward pass, the last module that was called keeps its gathered weights.
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        set_random_state(state)


def _means_of_processes(sums: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Return the mean loss by name over the sums and labels of all processes."""
    every: list[dict[str, tuple[float, float]]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(every, sums)
    names = sorted({name for one in every for name in one})
    pairs = {name: [one[name] for one in every if name in one] for name in names}
    labels = {name: sum(count for _, count in found) for name, found in pairs.items()}
    return {
        name: sum(loss for loss, _ in found) / labels[name] for name, found in pairs.items() if labels[name]
    }
