"""Samples that are too long: fewer frames or shorter audio by rule, and never a shorter answer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from llava_av.media.clip import Clip, Video
from llava_av.model.configuration import OverLimit

__all__ = ["SampleLengthError", "truncate_clip"]


class SampleLengthError(ValueError):
    """A sample with more tokens than the model takes."""


def truncate_clip(
    clip: Clip, count: Callable[[Clip], int], *, limit: int, rule: OverLimit, min_samples: int
) -> Clip:
    """Return the clip if its sample fits, or as much of it as fits.

    Args:
        clip: Decoded media of a sample.
        count: Function that returns the tokens of the sample with another clip in place of its own.
        limit: Maximum tokens.
        rule: Modality to shorten. With `fewer_frames`, frames are dropped evenly from each video;
            with `shorter_audio` all audio is cut at its end.
        min_samples: Minimum audio samples to keep.

    Raises:
        SampleLengthError: The sample is too long and the rule does not allow or reach the limit; names both
            counts.
    """
    shorten: Callable[[Clip, int], Clip]
    whole = count(clip)
    if whole <= limit:
        return clip
    if rule == "fewer_frames":
        most = max((len(video.frames_nhwc) for video in clip.videos), default=0)
        least, shorten = 1, _drop_frames
    elif rule == "shorter_audio":
        most = max((len(audio) for audio in _all_audio(clip)), default=0)
        least, shorten = min_samples, _cut_audio
    else:
        raise SampleLengthError(
            f"a sample of {whole} tokens is over max_tokens={limit}: raise it, or set over_limit to "
            "fewer_frames or shorter_audio"
        )
    if most <= least or count(shorten(clip, least)) > limit:
        smallest = count(shorten(clip, least)) if most > least else whole
        raise SampleLengthError(
            f"a sample of at least {smallest} tokens with {rule} is over max_tokens={limit}"
        )
    while most - least > 1:
        middle = (least + most) // 2
        if count(shorten(clip, middle)) <= limit:
            least = middle
        else:
            most = middle
    return shorten(clip, least)


def _all_audio(clip: Clip) -> list[np.ndarray]:
    return [*clip.audios, *(video.audio for video in clip.videos if video.audio is not None)]


def _drop_frames(clip: Clip, frames: int) -> Clip:
    return replace(clip, videos=tuple(_with_fewer_frames(video, frames) for video in clip.videos))


def _with_fewer_frames(video: Video, frames: int) -> Video:
    count = len(video.frames_nhwc)
    if count <= frames:
        return video
    kept = (np.arange(frames) * 2 + 1) * count // (2 * frames)
    times_s = tuple(video.frame_times_s[index] for index in kept)
    return replace(video, frames_nhwc=video.frames_nhwc[kept], frame_times_s=times_s)


def _cut_audio(clip: Clip, samples: int) -> Clip:
    videos = tuple(
        video if video.audio is None else replace(video, audio=video.audio[:samples]) for video in clip.videos
    )
    return replace(clip, videos=videos, audios=tuple(audio[:samples] for audio in clip.audios))
