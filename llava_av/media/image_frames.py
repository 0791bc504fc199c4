"""Frames of still images and animations (GIF, APNG, WebP, AVIF) with their times and properties.

An animation is treated as a video. If one image is needed, it is the first frame.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL.ImageFile import ImageFile

from llava_av.media.clip import ImageArray
from llava_av.media.image_decoding import (
    load_frame,
    open_image,
    orientation,
    rgb_array,
    upright,
    upright_size,
)
from llava_av.media.image_limits import is_animation
from llava_av.media.info import MediaInfo

__all__ = ["check_image", "describe_image", "frames_of_image"]

# As in browsers: tools write a delay this short if they intend no particular one.
_NO_DELAY_S = 0.01
_USUAL_DELAY_S = 0.1
_CONVERTIBLE = ("L", "LA", "RGB", "RGBA")
"""Modes whose conversion to RGB never fails."""


def describe_image(path: Path | str, content: bytes | None = None) -> MediaInfo:
    """Inspect a still image by its headers, and an animation by its frames; arguments as for `open_image`.

    Raises:
        MediaError: As `open_image`.
    """
    with open_image(path, content) as image:
        height, width = upright_size(image, orientation(image))
        delays_s = list(_delays(image)) if is_animation(image) else []
    return _described(height, width, delays_s)


def _described(height: int, width: int, delays_s: Sequence[float]) -> MediaInfo:
    """Return the properties of an image, or of an animation with these frames."""
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


def check_image(path: Path | str, content: bytes | None = None) -> MediaInfo:
    """Decode every frame as training does, then inspect the file; what passes can be trained on.

    Arguments as for `open_image`.

    Raises:
        MediaError: As `open_image`.
    """
    with open_image(path, content) as image:
        if not is_animation(image):
            if image.mode in _CONVERTIBLE:
                load_frame(image)
            else:
                rgb_array(image)
            return _described(*upright_size(image, orientation(image)), ())
    for _ in frames_of_image(path, content):
        pass
    return describe_image(path, content)


def frames_of_image(path: Path | str, content: bytes | None = None) -> Iterator[tuple[float, ImageArray]]:
    """Decode frame by frame; yield the start time of each in seconds, and the upright frame.

    A still image is one frame at 0 s. Arguments as for `open_image`.

    Raises:
        MediaError: As `open_image`.
    """
    with open_image(path, content) as image:
        if not is_animation(image):
            yield 0.0, _upright_frame(image)
            return
        start_s = 0.0
        for delay_s in _delays(image):
            yield start_s, _upright_frame(image)
            start_s += delay_s


def _upright_frame(image: ImageFile) -> ImageArray:
    # In this order: reading EXIF data at the end of a PNG also decodes it, and would hide its damage.
    stored = rgb_array(image)
    return upright(stored, orientation(image))


def _delays(image: ImageFile) -> Iterator[float]:
    """Yield the duration of each frame in seconds, while it is the image's current frame."""
    # Only a PNG may have an image that is no frame.
    first = int(getattr(image, "default_image", False))
    for number in range(first, getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        delay_s = image.info.get("duration", 0) / 1000
        yield delay_s if delay_s > _NO_DELAY_S else _USUAL_DELAY_S
