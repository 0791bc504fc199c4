"""Sizes of many samples as arrays, which processes exchange without pickling an object for each sample.

A sample takes 16 bytes, and 4 more for each of its videos and audio arrays.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed

from llava_av.media.clip import SampleSize
from llava_av.training.collective import largest_of_processes

__all__ = ["SampleSizes"]

_Integers = npt.NDArray[np.int32]
_COLUMNS = 4


@dataclass(frozen=True, eq=False)
class SampleSizes:
    """Sizes of the samples that a model can take, and the places of those that it cannot take."""

    counts: _Integers
    """Tokens, image tiles, videos and audio arrays `[samples, 4]`; -1 tokens if the model cannot take it."""
    media: _Integers
    """Frames of each video, then length of each audio array, sample by sample."""

    @classmethod
    def of(cls, sizes: Iterable[SampleSize | None]) -> "SampleSizes":
        """Return the arrays of some sizes; None for a sample that the model cannot take."""
        counts: list[int] = []
        media: list[int] = []
        for size in sizes:
            if size is None:
                counts += (-1, 0, 0, 0)
                continue
            counts += (size.tokens, size.image_tiles, len(size.frames), len(size.audios))
            media += (*size.frames, *size.audios)
        return cls(np.array(counts, np.int32).reshape(-1, _COLUMNS), np.array(media, np.int32))

    def are_fit(self) -> list[bool]:
        """Return whether the model can take each sample."""
        return [tokens >= 0 for tokens in self.counts[:, 0].tolist()]

    def __iter__(self) -> Iterator[SampleSize]:
        """Yield the size of each sample that the model can take."""
        at = 0
        for tokens, tiles, videos, audios in self.counts.tolist():
            if tokens < 0:
                continue
            frames_end, end = at + videos, at + videos + audios
            yield SampleSize(
                tokens=tokens,
                frames=tuple(self.media[at:frames_end].tolist()),
                image_tiles=tiles,
                audios=tuple(self.media[frames_end:end].tolist()),
            )
            at = end

    def gathered(self) -> "SampleSizes":
        """Return the sizes of all processes, in the order of ranks; all processes call this together."""
        counts = np.concatenate(_gathered(self.counts.reshape(-1))).reshape(-1, _COLUMNS)
        return SampleSizes(counts, np.concatenate(_gathered(self.media)))


def _gathered(own: _Integers) -> list[_Integers]:
    """Return the arrays `[any length]` of all processes by rank."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    longest = largest_of_processes(len(own))
    # All tensors of the collective have the same shape: the length first, then the values.
    padded = torch.zeros(1 + longest, dtype=torch.int32, device=device)
    padded[: 1 + len(own)] = torch.from_numpy(np.insert(own, 0, len(own)))
    every = [torch.empty_like(padded) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, padded)
    arrays = [one.cpu().numpy() for one in every]
    return [array[1 : 1 + array[0]] for array in arrays]
