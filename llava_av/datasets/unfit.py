"""Search for samples that a model cannot take, before training or evaluation starts.

A commit does not depend on a model. The sizes of media, which headers state, determine whether audio is too
short for a tower or a sample has too many tokens. A sample that is unfit by its headers is decoded once to
confirm this.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llava_av.datasets.loading import clip_sizes, load_clip
from llava_av.datasets.schema import Sample
from llava_av.errors import UserError, printable
from llava_av.media.clip import Clip, MediaSizes, SampleSize
from llava_av.media.container import MediaError
from llava_av.media.image import ImageResizing
from llava_av.recipe import MediaRecipe
from llava_av.storage import map_parallel

__all__ = [
    "Unfit",
    "UnfitSamplesError",
    "find_unfit",
    "log_unfit",
    "measure_samples",
    "require_few_unfit",
    "without_unfit",
]

_LOG = logging.getLogger(__name__)


class UnfitSamplesError(UserError):
    """More samples that the model cannot take than the recipe allows."""


class SampleMeter(Protocol):
    """Part of a model's processor that measures samples (`llava_av.model.LlavaAvProcessor`)."""

    def measure(self, turns: Sequence[tuple[str, str]], media: Clip | MediaSizes) -> SampleSize:
        """Return the size of a sample; raise ValueError if the model cannot take it."""
        ...

    def image_resizing(self) -> ImageResizing:
        """Return how the model's images and frames are resized."""
        ...


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """A sample that the model cannot take."""

    id: str
    """ID of the sample."""
    reason: str
    """Reason, on one line."""


def find_unfit(
    root: Path,
    samples: Sequence[Sample],
    media: MediaRecipe,
    processor: SampleMeter,
    *,
    row_tokens: int | None = None,
    most: float = math.inf,
) -> tuple[Unfit, ...]:
    """Return the samples that a model cannot take, in their order; arguments as for `measure_samples`."""
    measured = measure_samples(root, samples, media, processor, row_tokens=row_tokens, most=most)
    return tuple(one for one in measured if isinstance(one, Unfit))


def measure_samples(
    root: Path,
    samples: Sequence[Sample],
    media: MediaRecipe,
    processor: SampleMeter,
    *,
    row_tokens: int | None = None,
    most: float = math.inf,
) -> tuple[SampleSize | Unfit, ...]:
    """Return the size of each sample, or why a model cannot take it; the result is the same on every machine.

    Args:
        root: Folder that media paths are relative to.
        samples: Samples to measure.
        media: Sampling rates and sizes.
        processor: Processor that counts tokens.
        row_tokens: Pack length, which no sample may exceed; None without packing.
        most: Stop when more samples than this are unfit; the result lacks the remaining ones.
    """
    with_media = {sample.media_key: sample for sample in samples}
    found = map_parallel(lambda sample: _sizes(root, sample, media, processor), with_media.values())
    sizes = dict(zip(with_media, found, strict=True))
    measured: list[SampleSize | Unfit] = []
    bad = 0
    for sample in samples:
        known = sizes[sample.media_key]
        size = _size(sample, known, processor, row_tokens) if isinstance(known, MediaSizes) else ""
        if isinstance(size, str):
            # Headers can be wrong, so only the decoded clip rejects a sample.
            size = _decoded_size(root, sample, media, processor, row_tokens)
        measured.append(size if isinstance(size, SampleSize) else Unfit(id=sample.id, reason=size))
        bad += isinstance(size, str)
        if bad > most:
            break
    return tuple(measured)


def log_unfit(unfit: Iterable[Unfit]) -> None:
    """Log each sample that is left out, with its reason."""
    for one in unfit:
        _LOG.warning("left out: sample %s: %s", printable(one.id), printable(one.reason))


def require_few_unfit(unfit: Sequence[Unfit], samples: int, max_share: float, what: str = "samples") -> None:
    """Require that the share of unfit samples is within the limit.

    Args:
        unfit: Samples that the model cannot take.
        samples: Number of all samples, at least one.
        max_share: Largest allowed share of unfit samples.
        what: Name of the samples in the message.

    Raises:
        UnfitSamplesError: The share is larger, or no sample is left; names the first sample and the reason.
    """
    if not unfit:
        return
    is_few = len(unfit) / samples <= max_share
    if is_few and len(unfit) < samples:
        return
    first = f"the first is sample {unfit[0].id}: {unfit[0].reason}"
    if is_few:
        raise UnfitSamplesError(
            f"{len(unfit)} of {samples} {what} do not fit the model, so none is left: correct them, or "
            f"change the limits of the model; {first}"
        )
    raise UnfitSamplesError(
        f"at least {len(unfit)} of {samples} {what} do not fit the model, more than data.max_bad_share="
        f"{max_share:g} allows: remove them, or raise the limit; {first}"
    )


def without_unfit(
    samples: Sequence[Sample], unfit: Sequence[Unfit], max_share: float, *, report: bool
) -> tuple[Sample, ...]:
    """Return the samples that a model can take.

    Args:
        samples: All samples, at least one.
        unfit: Samples that the model cannot take.
        max_share: Largest allowed share of unfit samples.
        report: Log each unfit sample with its reason; in a process group only rank zero does.

    Raises:
        UnfitSamplesError: The share of unfit samples is larger than allowed.
    """
    if report:
        log_unfit(unfit)
    require_few_unfit(unfit, len(samples), max_share)
    left_out = {one.id for one in unfit}
    return tuple(sample for sample in samples if sample.id not in left_out)


def _sizes(root: Path, sample: Sample, media: MediaRecipe, processor: SampleMeter) -> MediaSizes | MediaError:
    try:
        return clip_sizes(root, sample, media, processor.image_resizing())
    except MediaError as error:
        return error


def _decoded_size(
    root: Path, sample: Sample, media: MediaRecipe, processor: SampleMeter, row_tokens: int | None
) -> SampleSize | str:
    try:
        clip = load_clip(root, sample, media, processor.image_resizing())
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
