"""The control "shuffled audio": each clip with the sound of another one, chosen by a seed.

A model that only needs some sound to be there answers as before; one that listens does worse. The clips that
have sound stand in a ring in an order drawn by the seed, and each gets the sound of the next: nobody keeps
its own, everybody lends once, and two neighbours in the order in which questions are asked need no clip to
be decoded a second time. The sound is cut to the length of the clip's own, or repeated from its start until
it is as long, so that the number of audio tokens and their places are those of the unchanged question.
"""

import random
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from llava_av.media.clip import Clip

__all__ = ["ring_of_clips", "with_audio_of"]

_Sound = npt.NDArray[np.float32]


def ring_of_clips(keys: Sequence[Hashable], seed: int) -> dict[Hashable, Hashable]:
    """Who lends its sound to whom: each clip's key to its lender's, in the order of the ring.

    Args:
        keys: of the clips that have sound, each once, in an order that does not depend on the machine.
        seed: seed of the order.

    Returns:
        A single cycle over all keys; empty for fewer than two, which leaves nobody to lend.

    Raises:
        ValueError: a key that is there twice.
    """
    if len(set(keys)) != len(keys):
        raise ValueError(f"{len(keys)} keys of clips, only {len(set(keys))} of them different")
    if len(keys) < 2:
        return {}
    order = list(keys)
    # Random(str) is the same in every version of Python, unlike numpy's generators.
    random.Random(f"shuffled audio {seed}").shuffle(order)
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def with_audio_of(clip: Clip, lender: Clip) -> Clip:
    """Return the clip with all audio replaced: the first by the lender's first and so on, cyclically.

    Raises:
        ValueError: the lender has no sound.
    """
    lent = _sounds(lender)
    if not lent:
        raise ValueError("a clip without sound cannot lend it")
    given = 0

    def next_sound(own: _Sound) -> _Sound:
        nonlocal given
        sound = lent[given % len(lent)]
        given += 1
        return np.resize(sound, own.shape) if len(sound) else np.zeros_like(own)

    videos = tuple(
        video if video.audio is None else replace(video, audio=next_sound(video.audio))
        for video in clip.videos
    )
    return replace(clip, videos=videos, audios=tuple(next_sound(sound) for sound in clip.audios))


def _sounds(clip: Clip) -> list[_Sound]:
    return [video.audio for video in clip.videos if video.audio is not None] + list(clip.audios)
