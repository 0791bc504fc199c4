"""Decoded media of one sample, as arrays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Clip", "Video"]


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
    sounds: tuple[npt.NDArray[np.float32], ...] = ()
    """Sounds of their own (not a video's), mono `[samples]` in -1 to 1."""
    images_nhwc: tuple[npt.NDArray[np.uint8], ...] = ()
    """Images `[height, width, 3]`, each of a size of its own."""

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        sounds = [*self.sounds, *(video.audio for video in self.videos if video.audio is not None)]
        pictures = [*self.images_nhwc, *(video.frames_nhwc for video in self.videos)]
        return sum(sound.nbytes for sound in sounds) + sum(picture.nbytes for picture in pictures)

    def modalities(self) -> str:
        """What there is to see and hear, such as `video_audio`; `text` when there is nothing."""
        sound = self.sounds or [video for video in self.videos if video.audio is not None]
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
            sounds=() if audio else self.sounds,
            images_nhwc=() if video else self.images_nhwc,
        )
