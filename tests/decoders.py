"""Decoders for worker processes: the ID of a sample says what happens to it."""

import os
import time

import numpy as np

from llava_av.datasets.schema import Sample
from llava_av.media.clip import Clip, Video
from llava_av.media.info import MediaError

FRAMES = 3


def new_sample(number: int, fate: str = "clip", question: int = 0) -> Sample:
    """Return a sample about clip `number`, whose decoding has this fate."""
    turns = [{"from": "human", "value": f"<video>\nWhich {question}?"}, {"from": "gpt", "value": "red"}]
    return Sample.model_validate(
        {"id": f"{fate}-{number}-{question}", "conversations": turns, "video": [f"{fate}{number}.mp4"]}
    )


def decode(sample: Sample) -> Clip:
    """Return a clip that depends on the name of the video, or do what the sample's ID says."""
    fate, number, _ = sample.id.split("-")
    if fate == "hang":
        time.sleep(600)
    if fate == "crash":
        os._exit(7)
    if fate == "huge":
        np.ones(2**36, np.uint8)
    if fate == "bad":
        raise MediaError(sample.video[0], "does not decode")
    if fate == "slow":
        time.sleep(0.5)
    generator = np.random.default_rng(int(number))
    frames = generator.integers(0, 256, (FRAMES, 16, 16, 3), np.uint8)
    audio = generator.standard_normal(800).astype(np.float32)
    video = Video(frames_nhwc=frames, frame_times_s=(0.0, 0.5, 1.0), audio=audio)
    if fate != "many":
        return Clip(videos=(video,))
    return Clip(
        videos=(
            video,
            Video(frames_nhwc=frames[:1], frame_times_s=(0.0,), audio=None),
        ),
        audios=(audio[:100],),
        images_nhwc=(frames[0, :8],),
    )
