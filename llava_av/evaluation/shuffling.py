"""Shuffled audio, the control in which each clip has the audio of another clip.

A model that uses the content of audio answers worse under this control; a model that only needs some audio
does not. The seed arranges all clips with audio in a ring, and each clip gets the audio of the next one. No
clip keeps its own audio, each clip lends its audio once, and clips that are adjacent in the ring can share
one decoded clip. The audio is cut to the length of the original, or repeated from its start up to that
length, so the number and the positions of the audio tokens stay the same.
"""

import random
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from llava_av.media.clip import Clip

__all__ = ["ring_of_clips", "with_audio_of"]

_Audio = npt.NDArray[np.float32]


def ring_of_clips(keys: Sequence[Hashable], seed: int) -> dict[Hashable, Hashable]:
    """Return the key of the clip that lends its audio to each clip, in the order of the ring.

    Args:
        keys: Keys of the clips with audio, each once, in an order that does not depend on the machine.
        seed: Seed of the order.

    Returns:
        A single cycle over all keys; empty for fewer than two keys.

    Raises:
        ValueError: A key is duplicated.
    """
    if len(set(keys)) != len(keys):
        raise ValueError(f"keys of clips must be unique: {len(keys)} keys, {len(set(keys))} unique")
    if len(keys) < 2:
        return {}
    order = list(keys)
    # Random(str) is the same in every version of Python, unlike numpy's generators.
    random.Random(f"shuffled audio {seed}").shuffle(order)
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def with_audio_of(clip: Clip, lender: Clip) -> Clip:
    """Return the clip with each audio replaced by an audio of the lender, in order and cyclically.

    Raises:
        ValueError: The lender has no audio.
    """
    lent = _all_audio(lender)
    if not lent:
        raise ValueError("the lender has no audio")
    given = 0

    def next_audio(own: _Audio) -> _Audio:
        nonlocal given
        audio = lent[given % len(lent)]
        given += 1
        return np.resize(audio, own.shape) if len(audio) else np.zeros_like(own)

    videos = tuple(
        video if video.audio is None else replace(video, audio=next_audio(video.audio))
        for video in clip.videos
    )
    return replace(clip, videos=videos, audios=tuple(next_audio(audio) for audio in clip.audios))


def _all_audio(clip: Clip) -> list[_Audio]:
    return [video.audio for video in clip.videos if video.audio is not None] + list(clip.audios)
