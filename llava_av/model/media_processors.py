"""Transformers' processors of images and frames, which a model's folder holds beside the tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import LlavaOnevisionVideoProcessor, SiglipImageProcessor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.video_processing_utils import BaseVideoProcessor

__all__ = ["MediaProcessors", "square_processors"]


@dataclass(frozen=True, kw_only=True)
class MediaProcessors:
    """Processors of a model; None for a modality that it lacks."""

    image: BaseImageProcessor | None = None
    video: BaseVideoProcessor | None = None


def square_processors(side: int, *, mean: Sequence[float], std: Sequence[float]) -> MediaProcessors:
    """Build processors that fill a square, ignoring the aspect ratio, and keep every frame.

    Args:
        side: Side of the square in pixels.
        mean: Mean of each channel that is subtracted.
        std: Standard deviation of each channel that the result is divided by.
    """
    size = {"height": side, "width": side}
    image_mean, image_std = list(mean), list(std)
    return MediaProcessors(
        image=SiglipImageProcessor(size=size, image_mean=image_mean, image_std=image_std),
        video=LlavaOnevisionVideoProcessor(
            size=size, image_mean=image_mean, image_std=image_std, do_sample_frames=False
        ),
    )
