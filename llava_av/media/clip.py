"""Decoded media of one sample, as arrays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Clip", "FramesArray", "ImageArray", "MediaSizes", "SampleSize", "Video", "VideoSize", "Waveform"]

ImageArray = npt.NDArray[np.uint8]
"""An RGB image `[height, width, 3]`."""
FramesArray = npt.NDArray[np.uint8]
"""RGB frames of equal size, `[frames, height, width, 3]`."""
Waveform = npt.NDArray[np.float32]
"""Mono audio `[samples]` in -1 to 1."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """One decoded video with its own audio."""

    frames_nhwc: FramesArray
    """Sampled frames `[frames, size, size, 3]`; empty if only the audio is used."""
    frame_times_s: tuple[float, ...]
    """Presentation time of each frame, in seconds from the start."""
    audio: Waveform | None
    """Mono audio `[samples]` in -1 to 1; None without an audio track or if the audio is not used."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """All media of one sample, in the order in which the sample names them."""

    videos: tuple[Video, ...] = ()
    audios: tuple[Waveform, ...] = ()
    """Audio files that belong to no video, mono `[samples]` in -1 to 1."""
    images_nhwc: tuple[ImageArray, ...] = ()
    """Images `[height, width, 3]`, each with its own size."""

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        audios = [*self.audios, *(video.audio for video in self.videos if video.audio is not None)]
        images = [*self.images_nhwc, *(video.frames_nhwc for video in self.videos)]
        return sum(audio.nbytes for audio in audios) + sum(image.nbytes for image in images)

    def modalities(self) -> str:
        """Return the modalities present, such as `video_audio`; `text` if there are no media."""
        audio = self.audios or [video for video in self.videos if video.audio is not None]
        present = {
            "image": self.images_nhwc,
            "video": [video for video in self.videos if len(video.frames_nhwc)],
            "audio": audio,
        }
        return "_".join(name for name, media in present.items() if media) or "text"

    def without(self, *, video: bool, audio: bool) -> "Clip":
        """Return a copy that lacks every frame and image (`video`) or all audio (`audio`)."""
        videos = self.videos
        if video:
            videos = tuple(
                Video(frames_nhwc=clip.frames_nhwc[:0], frame_times_s=(), audio=clip.audio) for clip in videos
            )
        if audio:
            videos = tuple(
                Video(frames_nhwc=clip.frames_nhwc, frame_times_s=clip.frame_times_s, audio=None)
                for clip in videos
            )
        return Clip(
            videos=videos,
            audios=() if audio else self.audios,
            images_nhwc=() if video else self.images_nhwc,
        )


@dataclass(frozen=True, kw_only=True)
class VideoSize:
    """Size of a video, known before it is decoded."""

    frame_times_s: tuple[float, ...]
    """Time of each frame that will be sampled, in seconds from the start; see `frame_times`."""
    samples: int | None
    """Audio samples; None without audio."""


@dataclass(frozen=True, kw_only=True)
class MediaSizes:
    """Sizes of all media of a sample, known before they are decoded, in the sample's order."""

    videos: tuple[VideoSize, ...] = ()
    audios: tuple[int, ...] = ()
    """Samples of each audio file that belongs to no video."""
    images: tuple[tuple[int, int], ...] = ()
    """Height and width of each image in pixels; see `image_size`."""

    @classmethod
    def of(cls, clip: Clip) -> "MediaSizes":
        """Return the sizes of decoded media."""
        return cls(
            videos=tuple(
                VideoSize(
                    frame_times_s=video.frame_times_s,
                    samples=None if video.audio is None else len(video.audio),
                )
                for video in clip.videos
            ),
            audios=tuple(len(audio) for audio in clip.audios),
            images=tuple((image.shape[0], image.shape[1]) for image in clip.images_nhwc),
        )

    def blank(self) -> Clip:
        """Return media of these sizes that take no memory: frames without pixels, arrays of a shared zero."""
        return Clip(
            videos=tuple(
                Video(
                    frames_nhwc=np.zeros((len(video.frame_times_s), 0, 0, 3), np.uint8),
                    frame_times_s=video.frame_times_s,
                    audio=None if video.samples is None else _silence(video.samples),
                )
                for video in self.videos
            ),
            audios=tuple(map(_silence, self.audios)),
            images_nhwc=tuple(np.broadcast_to(np.uint8(0), (*size, 3)) for size in self.images),
        )


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """Tokens and media of one sample as a model computes them, known before anything is decoded."""

    tokens: int
    """Tokens of the sequence."""
    frames: tuple[int, ...] = ()
    """Frames of each video."""
    image_tiles: int = 0
    """Tiles of all images."""
    audios: tuple[int, ...] = ()
    """Samples of each audio array, including that of videos."""


def _silence(samples: int) -> Waveform:
    return np.broadcast_to(np.float32(0), samples)
