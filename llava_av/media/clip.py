"""Decoded media of one sample, as arrays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Clip", "MediaSizes", "Video", "VideoSize"]


@dataclass(frozen=True, kw_only=True)
class Video:
    """One decoded video with the sound that belongs to it."""

    frames_nhwc: npt.NDArray[np.uint8]
    """Sampled frames `[frames, size, size, 3]`; none when only its sound is used."""
    frame_times_s: tuple[float, ...]
    """Time at which each frame is shown, in seconds from the start."""
    audio: npt.NDArray[np.float32] | None
    """Mono sound `[samples]` in -1 to 1; None without a sound track or when it is not to be used."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """All media of one sample, in the order in which the sample names them."""

    videos: tuple[Video, ...] = ()
    audios: tuple[npt.NDArray[np.float32], ...] = ()
    """Sounds of their own (not a video's), mono `[samples]` in -1 to 1."""
    images_nhwc: tuple[npt.NDArray[np.uint8], ...] = ()
    """Images `[height, width, 3]`, each of a size of its own."""

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        sounds = [*self.audios, *(video.audio for video in self.videos if video.audio is not None)]
        pictures = [*self.images_nhwc, *(video.frames_nhwc for video in self.videos)]
        return sum(sound.nbytes for sound in sounds) + sum(picture.nbytes for picture in pictures)

    def modalities(self) -> str:
        """What there is to see and hear, such as `video_audio`; `text` when there is nothing."""
        sound = self.audios or [video for video in self.videos if video.audio is not None]
        present = {
            "image": self.images_nhwc,
            "video": [video for video in self.videos if len(video.frames_nhwc)],
            "audio": sound,
        }
        return "_".join(name for name, media in present.items() if media) or "text"

    def without(self, *, video: bool, audio: bool) -> "Clip":
        """A copy that lacks every frame and image (`video`) or every sound (`audio`)."""
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
    """What is known of a video before it is decoded."""

    frame_times_s: tuple[float, ...]
    """Time of each frame that will be sampled, in seconds from the start; see `frame_times`."""
    samples: int | None
    """Samples of its sound; None without."""


@dataclass(frozen=True, kw_only=True)
class MediaSizes:
    """What is known of all media of a sample before they are decoded, in the sample's order."""

    videos: tuple[VideoSize, ...] = ()
    audios: tuple[int, ...] = ()
    """Samples of each sound of its own."""
    images: tuple[tuple[int, int], ...] = ()
    """Height and width of each image in pixels; see `image_size`."""

    @classmethod
    def of(cls, clip: Clip) -> "MediaSizes":
        """The sizes of decoded media."""
        return cls(
            videos=tuple(
                VideoSize(
                    frame_times_s=video.frame_times_s,
                    samples=None if video.audio is None else len(video.audio),
                )
                for video in clip.videos
            ),
            audios=tuple(len(sound) for sound in clip.audios),
            images=tuple((image.shape[0], image.shape[1]) for image in clip.images_nhwc),
        )

    def blank(self) -> Clip:
        """Media of these sizes that take no memory: frames without pixels, and one zero seen many times."""
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


def _silence(samples: int) -> npt.NDArray[np.float32]:
    return np.broadcast_to(np.float32(0), samples)
