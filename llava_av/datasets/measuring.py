"""Search for samples that a model cannot take, before training or evaluation starts.

A commit does not depend on a model. The sizes of media, which headers state, determine whether audio is too
short for a tower or a sample has too many tokens. A sample that is unfit by its headers is decoded once to
confirm this.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from llava_av.datasets.loading import clip_sizes, load_clip
from llava_av.datasets.media_source import FolderMedia, MediaSource
from llava_av.datasets.schema import Sample
from llava_av.datasets.unfit import Unfit
from llava_av.media.clip import Clip, MediaSizes, SampleSize
from llava_av.media.info import MediaError
from llava_av.media.resizing import ImageResizing
from llava_av.recipe import MediaRecipe
from llava_av.storage import map_parallel

__all__ = ["find_unfit", "measure_samples"]


class SampleMeter(Protocol):
    """Part of a model's processor that measures samples (`llava_av.model.LlavaAvProcessor`)."""

    def measure(self, turns: Sequence[tuple[str, str]], media: Clip | MediaSizes) -> SampleSize:
        """Return the size of a sample; raise ValueError if the model cannot take it."""
        ...

    def image_resizing(self) -> ImageResizing:
        """Return how the model's images and frames are resized."""
        ...


def find_unfit(
    source: Path | MediaSource,
    samples: Sequence[Sample],
    media: MediaRecipe,
    processor: SampleMeter,
    *,
    row_tokens: int | None = None,
    most: float = math.inf,
) -> tuple[Unfit, ...]:
    """Return the samples that a model cannot take, in their order; arguments as for `measure_samples`."""
    measured = measure_samples(source, samples, media, processor, row_tokens=row_tokens, most=most)
    return tuple(one for one in measured if isinstance(one, Unfit))


def measure_samples(
    source: Path | MediaSource,
    samples: Sequence[Sample],
    media: MediaRecipe,
    processor: SampleMeter,
    *,
    row_tokens: int | None = None,
    most: float = math.inf,
) -> tuple[SampleSize | Unfit, ...]:
    """Return the size of each sample, or why a model cannot take it; the result is the same on every machine.

    Args:
        source: Source of the media, or the folder that media paths are relative to.
        samples: Samples to measure.
        media: Sampling rates and sizes.
        processor: Processor that counts tokens.
        row_tokens: Pack length, which no sample may exceed; None without packing.
        most: Stop when more samples than this are unfit; the result lacks the remaining ones.
    """
    source = FolderMedia(source) if isinstance(source, Path) else source
    with_media = {sample.media_key: sample for sample in samples}
    found = map_parallel(lambda sample: _sizes(source, sample, media, processor), with_media.values())
    sizes = dict(zip(with_media, found, strict=True))
    measured: list[SampleSize | Unfit] = []
    bad = 0
    for sample in samples:
        known = sizes[sample.media_key]
        size = _size(sample, known, processor, row_tokens) if isinstance(known, MediaSizes) else ""
        if isinstance(size, str):
            # Headers can be wrong, so only the decoded clip rejects a sample.
            size = _decoded_size(source, sample, media, processor, row_tokens)
        measured.append(size if isinstance(size, SampleSize) else Unfit(id=sample.id, reason=size))
        bad += isinstance(size, str)
        if bad > most:
            break
    return tuple(measured)


def _sizes(
    source: MediaSource, sample: Sample, media: MediaRecipe, processor: SampleMeter
) -> MediaSizes | MediaError:
    try:
        with source.files(sample) as files:
            return clip_sizes(files, sample, media, processor.image_resizing(), source.info)
    except MediaError as error:
        return error


def _decoded_size(
    source: MediaSource, sample: Sample, media: MediaRecipe, processor: SampleMeter, row_tokens: int | None
) -> SampleSize | str:
    try:
        with source.files(sample) as files:
            clip = load_clip(files, sample, media, processor.image_resizing())
    except MediaError as error:
        return f"{error.path}: {error.reason}"
    return _size(sample, clip, processor, row_tokens)


def _size(
    sample: Sample, media: Clip | MediaSizes, processor: SampleMeter, row_tokens: int | None
) -> SampleSize | str:
    """Return the size of a sample, or why the model cannot take it."""
    turns = [(turn.speaker, turn.value) for turn in sample.conversations]
    try:
        size = processor.measure(turns, media)
    except ValueError as error:
        return str(error)
    if row_tokens is not None and size.tokens > row_tokens:
        return f"{size.tokens} tokens, but training.pack_length={row_tokens}"
    return size
