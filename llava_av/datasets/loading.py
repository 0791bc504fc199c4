"""Decoding of a sample's media files into arrays."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from llava_av.datasets.media_source import MediaSource
from llava_av.datasets.schema import Sample
from llava_av.media.audio_length import audio_length, stated_length
from llava_av.media.clip import Clip, MediaSizes, Video, VideoSize
from llava_av.media.container import MediaError, probe
from llava_av.media.decode import frame_times, read_audio, read_video
from llava_av.media.image import image_size, read_image, size_within
from llava_av.media.info import MediaInfo
from llava_av.media.resizing import ImageResizing
from llava_av.recipe import MediaRecipe

__all__ = [
    "LocatedSample",
    "clip_sizes",
    "has_audio",
    "load_clip",
    "load_from",
    "load_image",
    "load_located",
    "load_video",
]

_Media = TypeVar("_Media")
_Files = Path | Mapping[str, Path]
_SQUARES = ImageResizing()


@dataclass(frozen=True, kw_only=True)
class LocatedSample:
    """A sample whose media files are at hand."""

    sample: Sample
    files: Mapping[str, Path]
    """Path of each media file by its name in the sample."""


def load_located(located: LocatedSample, media: MediaRecipe, resizing: ImageResizing = _SQUARES) -> Clip:
    """Decode all media of a located sample; see `load_clip`."""
    return load_clip(located.files, located.sample, media, resizing)


def load_from(
    source: MediaSource, sample: Sample, recipe: MediaRecipe, resizing: ImageResizing = _SQUARES
) -> Clip:
    """Decode all media of a sample from a source; see `load_clip`."""
    with source.files(sample) as files:
        return load_clip(files, sample, recipe, resizing)


def load_clip(root: _Files, sample: Sample, media: MediaRecipe, resizing: ImageResizing = _SQUARES) -> Clip:
    """Decode all media of a sample.

    Args:
        root: Folder that the sample's paths are relative to, or the path of each of them.
        sample: Sample that names the files.
        media: Sampling rates and sizes.
        resizing: Resizing of images and frames that a model requires (`LlavaAvProcessor.image_resizing`).

    Returns:
        Videos, audio and images in the sample's order. A video's audio is None if it has no audio track or
        the sample does not use it; silence is an array of zeros.

    Raises:
        MediaError: A file is missing or does not decode; it names the file as the sample does, and the
            sample. No file is replaced by zeros.
    """

    def read(names: tuple[str, ...], load: Callable[[Path], _Media]) -> tuple[_Media, ...]:
        return tuple(_load(root, name, sample.id, load) for name in names)

    return Clip(
        videos=read(sample.video, lambda path: load_video(path, media, resizing, use_audio=sample.use_audio)),
        audios=read(
            sample.audio,
            lambda path: read_audio(path, sample_rate_hz=media.sample_rate_hz, max_s=media.max_audio_s),
        ),
        images_nhwc=read(sample.image, lambda path: load_image(path, media, resizing)),
    )


def clip_sizes(
    root: _Files,
    sample: Sample,
    media: MediaRecipe,
    resizing: ImageResizing = _SQUARES,
    info_of: Callable[[str], MediaInfo | None] = lambda name: None,
) -> MediaSizes:
    """Return the sizes of the clip that `load_clip` returns; only audio below one second is decoded.

    The length of longer audio is an upper bound, a few packets above the decoded length. Other arguments and
    errors are those of `load_clip`.

    Args:
        root: See `load_clip`.
        sample: See `load_clip`.
        media: See `load_clip`.
        resizing: See `load_clip`.
        info_of: Returns the recorded properties of a file, which is then not opened if they determine its
            size.
    """

    def read(name: str, load: Callable[[Path], _Media]) -> _Media:
        return _load(root, name, sample.id, load)

    def audio(name: str, info: MediaInfo | None) -> int:
        rate_hz, max_s = media.sample_rate_hz, media.max_audio_s
        if info is not None:
            known = stated_length(info.audio_end_s, sample_rate_hz=rate_hz, max_s=max_s)
            if known is not None:
                return known
        return read(name, lambda path: audio_length(path, sample_rate_hz=rate_hz, max_s=max_s))

    def video(name: str) -> VideoSize:
        info = info_of(name)
        if info is None or info.kind != "video" or info.is_animation:
            info = read(name, probe)
        times_s = frame_times(info.duration_s, frames_per_s=media.frames_per_s, max_frames=media.max_frames)
        uses_audio = sample.use_audio and info.has_audio
        return VideoSize(frame_times_s=tuple(times_s), samples=audio(name, info) if uses_audio else None)

    def image(name: str) -> tuple[int, int]:
        # Only a model that splits images into tiles needs their size in pixels.
        most, info = resizing.max_image_pixels, info_of(name)
        if most is None:
            return media.frame_size, media.frame_size
        if info is not None and info.kind == "image":
            return size_within(info.height, info.width, most)
        return read(name, lambda path: image_size(path, max_pixels=most))

    return MediaSizes(
        videos=tuple(map(video, sample.video)),
        audios=tuple(audio(name, info_of(name)) for name in sample.audio),
        images=tuple(map(image, sample.image)),
    )


def has_audio(source: MediaSource, sample: Sample) -> bool:
    """Check by recorded properties, or else by the files' headers, whether a sample has audio.

    Raises:
        MediaError: As `load_clip`.
    """
    if sample.audio:
        return True
    if not sample.use_audio:
        return False
    with source.files(sample) as files:
        infos = (source.info(name) or _load(files, name, sample.id, probe) for name in sample.video)
        return any(info.has_audio for info in infos)


def _load(root: _Files, name: str, sample_id: str, load: Callable[[Path], _Media]) -> _Media:
    try:
        return load(root / name if isinstance(root, Path) else root[name])
    except MediaError as error:
        # A job reads a copy whose path means nothing to the user.
        place = f", read from {root}" if isinstance(root, Path) else ""
        raise MediaError(name, f"{error.reason} (sample {sample_id}{place})") from None


def load_image(path: Path, media: MediaRecipe, resizing: ImageResizing = _SQUARES) -> NDArray[np.uint8]:
    """Decode one image, `[height, width, 3]`; arguments as for `load_clip`.

    Raises:
        MediaError: The file is missing or contains no image that decodes.
    """
    if resizing.max_image_pixels is None and resizing.resize_image is None:
        return read_image(path, side=media.frame_size)
    image = read_image(path, max_pixels=resizing.max_image_pixels or math.inf)
    return image if resizing.resize_image is None else resizing.resize_image(image)


def load_video(
    path: Path, media: MediaRecipe, resizing: ImageResizing = _SQUARES, *, use_audio: bool = True
) -> Video:
    """Decode one video, with its own audio if it has some and `use_audio` is true.

    Other arguments as for `load_clip`.

    Raises:
        MediaError: The file is missing, has no video track or does not decode.
    """
    return read_video(
        path,
        frames_per_s=media.frames_per_s,
        max_frames=media.max_frames,
        size=media.frame_size,
        resize=resizing.resize_frame,
        decoder=media.decoder,
        sample_rate_hz=media.sample_rate_hz if use_audio else None,
        max_audio_s=media.max_audio_s,
    )
