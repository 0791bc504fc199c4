"""Batches of one process: decoded ahead of need in a thread, each clip decoded once while memory lasts."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from llava_av.datasets.schema import Sample
from llava_av.media.clip import Clip
from llava_av.model import LlavaAvProcessor
from llava_av.training.order import step_indices

__all__ = ["ClipCache", "LoadedBatch", "batches"]


class ClipCache:
    """Decoded clips by their media, the least recently used dropped beyond a number of bytes."""

    def __init__(self, load: Callable[[Sample], Clip], max_bytes: int) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._clips: OrderedDict[tuple[Any, ...], Clip] = OrderedDict()
        self._bytes = 0

    def get(self, sample: Sample) -> Clip:
        """The sample's clip; samples that name the same media share one."""
        key = (sample.image, sample.video, sample.audio, sample.use_audio)
        clip = self._clips.pop(key, None)
        if clip is None:
            clip = self._load(sample)
            self._bytes += clip.nbytes
        self._clips[key] = clip
        while self._bytes > self._max_bytes and len(self._clips) > 1:
            _, dropped = self._clips.popitem(last=False)
            self._bytes -= dropped.nbytes
        return clip


@dataclass(frozen=True, kw_only=True)
class LoadedBatch:
    """One process's share of one optimizer step."""

    step: int
    tensors: dict[str, Any]
    """Arguments of the model's `forward`."""
    kinds: tuple[str, ...]
    """Question kind of each row."""
    modalities: tuple[str, ...]
    """Modalities of each row, such as `video_audio`."""
    tokens: int
    """Tokens without padding."""


def batches(
    samples: Sequence[Sample],
    processor: LlavaAvProcessor,
    cache: ClipCache,
    *,
    seed: int,
    steps: range,
    samples_per_step: int,
    rank: int,
    processes: int,
) -> Iterator[LoadedBatch]:
    """The batches of `steps`, the next one made while the present one is used.

    Args:
        samples: the whole train split.
        processor: encodes and pads.
        cache: decodes.
        seed: of the order.
        steps: optimizer steps to give.
        samples_per_step: samples of one step over all processes.
        rank: of this process; it gets a contiguous share of each step.
        processes: number of processes.
    """
    share = samples_per_step // processes

    def load(step: int) -> LoadedBatch:
        indices = step_indices(seed, step, samples_per_step, samples)
        return _load_batch(
            step, [samples[i] for i in indices[rank * share : (rank + 1) * share]], processor, cache
        )

    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        ahead = pool.submit(load, steps[0]) if steps else None
        for step in steps:
            assert ahead is not None
            batch = ahead.result()
            ahead = pool.submit(load, step + 1) if step + 1 in steps else None
            yield batch


def _load_batch(
    step: int, samples: Sequence[Sample], processor: LlavaAvProcessor, cache: ClipCache
) -> LoadedBatch:
    clips = [cache.get(sample) for sample in samples]
    encoded = [
        processor.encode([(turn.speaker, turn.value) for turn in sample.conversations], clip)
        for sample, clip in zip(samples, clips, strict=True)
    ]
    return LoadedBatch(
        step=step,
        tensors=processor.collate(encoded),
        kinds=tuple(sample.kind for sample in samples),
        modalities=tuple(clip.modalities() for clip in clips),
        tokens=sum(len(sample.input_ids) for sample in encoded),
    )
