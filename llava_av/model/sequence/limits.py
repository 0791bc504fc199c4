"""A sample that is too long: fewer frames or shorter sound, by rule, and never a shorter answer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from llava_av.media.clip import Clip, Video
from llava_av.model.configuration import OverLimit

__all__ = ["fitted"]


def fitted(
    clip: Clip, count: Callable[[Clip], int], *, limit: int, rule: OverLimit, least_samples: int
) -> Clip:
    """The clip itself if it fits, or as much of it as does.

    Args:
        clip: the decoded media of a sample.
        count: positions of the sample with a clip in its place.
        limit: positions at most.
        rule: what gives way. With `fewer_frames` each video keeps at most so many frames, evenly spaced; with
            `shorter_audio` each sound is cut at its end.
        least_samples: samples that a sound keeps at least.

    Raises:
        ValueError: it does not fit and may not be made to, or does not fit even so; with both counts.
    """
    shorten: Callable[[Clip, int], Clip]
    whole = count(clip)
    if whole <= limit:
        return clip
    if rule == "fewer_frames":
        most = max((len(video.frames_nhwc) for video in clip.videos), default=0)
        least, shorten = 1, _thinned
    elif rule == "shorter_audio":
        sounds = [*clip.audios, *(video.audio for video in clip.videos if video.audio is not None)]
        most = max((len(sound) for sound in sounds), default=0)
        least, shorten = least_samples, _cut
    else:
        raise ValueError(f"a sample of {whole} tokens, but max_tokens={limit} and over_limit='refuse'")
    if most <= least or count(shorten(clip, least)) > limit:
        smallest = count(shorten(clip, least)) if most > least else whole
        raise ValueError(f"a sample of {smallest} tokens at least with {rule}, but max_tokens={limit}")
    while most - least > 1:
        middle = (least + most) // 2
        if count(shorten(clip, middle)) <= limit:
            least = middle
        else:
            most = middle
    return shorten(clip, least)


def _thinned(clip: Clip, frames: int) -> Clip:
    return replace(clip, videos=tuple(_thinned_video(video, frames) for video in clip.videos))


def _thinned_video(video: Video, frames: int) -> Video:
    there = len(video.frames_nhwc)
    if there <= frames:
        return video
    kept = (np.arange(frames) * 2 + 1) * there // (2 * frames)
    times_s = tuple(video.frame_times_s[index] for index in kept)
    return replace(video, frames_nhwc=video.frames_nhwc[kept], frame_times_s=times_s)


def _cut(clip: Clip, samples: int) -> Clip:
    videos = tuple(
        video if video.audio is None else replace(video, audio=video.audio[:samples]) for video in clip.videos
    )
    return replace(clip, videos=videos, audios=tuple(sound[:samples] for sound in clip.audios))
