"""Frames of still images and of animations (GIF, APNG, WebP, AVIF) with their times, and facts about both.

An animation is a video: its frames are shown one after the other. Where one image is wanted, it is the
first frame.
"""

from collections.abc import Iterator
from pathlib import Path

from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from llava_av.media.image_limits import is_animation
from llava_av.media.info import MediaInfo
from llava_av.media.stills import (
    Picture,
    open_image,
    orientation,
    rgb_array,
    upright,
    upright_size,
)

__all__ = ["check_image", "describe_image", "frames_of_image"]

# As in browsers: tools that mean no particular delay write one this short.
_NO_DELAY_S = 0.01
_USUAL_DELAY_S = 0.1


def describe_image(path: Path | str) -> MediaInfo:
    """Return the facts about a still image by its headers, and about an animation by its frames.

    Raises:
        MediaError: as `open_image`.
    """
    with open_image(path) as image:
        height, width = upright_size(image, orientation(image))
        delays_s = list(_delays(image)) if is_animation(image) else []
    duration_s = sum(delays_s)
    return MediaInfo(
        kind="video" if delays_s else "image",
        duration_s=duration_s,
        frames=max(1, len(delays_s)),
        fps=len(delays_s) / duration_s if delays_s else None,
        width=width,
        height=height,
        has_audio=False,
        sample_rate_hz=None,
        is_animation=bool(delays_s),
    )


def check_image(path: Path | str) -> MediaInfo:
    """Decode every frame as training does, and return the facts.

    Raises:
        MediaError: as `open_image`; what passes can be trained on.
    """
    for _ in frames_of_image(path):
        pass
    return describe_image(path)


def frames_of_image(path: Path | str) -> Iterator[tuple[float, Picture]]:
    """Decode frame by frame: the time in seconds at which each is shown, and the frame upright.

    A still image is one frame at 0 s.

    Raises:
        MediaError: as `open_image`.
    """
    with open_image(path) as image:
        if not is_animation(image):
            yield 0.0, _upright_frame(image)
            return
        start_s = 0.0
        for delay_s in _delays(image):
            yield start_s, _upright_frame(image)
            start_s += delay_s


def _upright_frame(image: ImageFile) -> Picture:
    # In this order: looking for EXIF data at the end of a PNG decodes it, too, and would hide its damage.
    stored = rgb_array(image)
    return upright(stored, orientation(image))


def _delays(image: ImageFile) -> Iterator[float]:
    """Yield the seconds for which each frame is shown, while it is the image's current frame."""
    first = int(isinstance(image, PngImageFile) and bool(image.default_image))
    for place in range(first, getattr(image, "n_frames", 1)):
        image.seek(place)
        image.load()
        delay_s = image.info.get("duration", 0) / 1000
        yield delay_s if delay_s > _NO_DELAY_S else _USUAL_DELAY_S
