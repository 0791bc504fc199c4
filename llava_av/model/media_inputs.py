"""Media of a batch as the tensors that `forward` takes, in one value."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["MediaInputSizes", "MediaInputs", "as_bits", "normalised"]


@dataclass(frozen=True, kw_only=True)
class MediaInputs:
    """Media of a batch; the names of the fields are those of the arguments of `forward`.

    A medium that several rows share is given once and goes through its tower once: an order gives, row by
        row, the
    medium of each position in the sequence. Without an order the media take the positions as they are given.
    """

    pixel_values: Tensor | None = None
    """Tiles: `[images, tiles, 3, size, size]` (padded) or, image after image, `[tiles, 3, size, size]`."""
    image_sizes: Tensor | None = None
    """Height and width of each image before processing, `[images, 2]`."""
    batch_num_images: Tensor | None = None
    """Number of images of each row, `[batch]`; None: each image counts as its row's only one."""
    image_tiles: Tensor | None = None
    """Number of tiles of each image, `[images]`; None: the number that follows from its size."""
    image_order: Tensor | None = None
    """Index of the image at each position, `[positions]`."""
    pixel_values_videos: Tensor | None = None
    """Frames: `[videos, frames, 3, size, size]` or, video after video, `[frames, 3, size, size]`.

    Bytes, which the model normalises on its device by `frame_norm`, or normalised values.
    """
    frame_norm: Tensor | None = None
    """Mean and standard deviation of each channel, `[2, 3]`, from `as_bits`; needed for frames in bytes."""
    video_frames: Tensor | None = None
    """Number of frames of each video, `[videos]`; needed with the second form."""
    video_order: Tensor | None = None
    """Index of the video at each position, `[positions]`."""
    audio_values: Tensor | None = None
    """Prepared audio: padded waveforms `[audios, longest]`, or log-mel windows `[windows, mel, frames]`."""
    audio_lengths: Tensor | None = None
    """Number of samples of each audio array, `[audios]`."""
    audio_order: Tensor | None = None
    """Index of the audio array at each position, `[positions]`."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the arguments of `forward` that belong to media."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Tensor | None]) -> "MediaInputs":
        """Collect the media among the arguments of `forward`; others are ignored."""
        return cls(**{name: arguments[name] for name in cls.names() if name in arguments})

    def to_arguments(self) -> dict[str, Tensor]:
        """Return the fields that are given as arguments of `forward`."""
        values = ((name, getattr(self, name)) for name in self.names())
        return {name: value for name, value in values if value is not None}

    def sizes(self) -> "MediaInputSizes":
        """Read how the media are divided, which waits for their device."""
        given = ((field.name, getattr(self, field.name)) for field in fields(MediaInputSizes))
        return MediaInputSizes(**{name: None if one is None else one.tolist() for name, one in given})

    def normalised_frames(self) -> Tensor | None:
        """Return the frames as normalised values.

        Raises:
            ValueError: Frames in bytes have no `frame_norm`.
        """
        frames, norm = self.pixel_values_videos, self.frame_norm
        if frames is None or frames.dtype != torch.uint8:
            return frames
        if norm is None:
            raise ValueError(
                "pixel_values_videos in bytes need frame_norm, which is missing: pass every output of the "
                "processor"
            )
        return normalised(frames, norm)

    @property
    def is_empty(self) -> bool:
        """True if there are no media."""
        return not self.to_arguments()


@dataclass(frozen=True, kw_only=True)
class MediaInputSizes:
    """Fields of `MediaInputs` that say how media are divided, as numbers; None if not given."""

    image_sizes: list[list[int]] | None = None
    batch_num_images: list[int] | None = None
    image_tiles: list[int] | None = None
    image_order: list[int] | None = None
    video_frames: list[int] | None = None
    video_order: list[int] | None = None
    audio_lengths: list[int] | None = None
    audio_order: list[int] | None = None


def normalised(pixels: Tensor, norm: Tensor) -> Tensor:
    """Normalise bytes `[…, 3, height, width]` by the mean and standard deviation in `as_bits` of `[2, 3]`."""
    mean, std = norm.view(torch.float32).view(2, 3, 1, 1)
    return pixels.float().div_(255 * std).sub_(mean / std)


def as_bits(values: Tensor) -> Tensor:
    """Return the bits of float32 values as integers: engines round floating-point inputs to 16 bits."""
    return values.float().contiguous().view(torch.int32)
