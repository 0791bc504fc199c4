"""A tiny model and media for tests, built by the real code."""

import numpy as np

from llava_av.media.clip import Clip, Video
from llava_av.model import fresh_model
from llava_av.recipe import Recipe, load_recipe

TEXTS = ("Which colour is shown?", "red", "green", "What do you hear? Ein Ton — 音")


def tiny_recipe(**overrides) -> Recipe:
    """Return the dry run's recipe with overrides by dotted path (`__` for the dot)."""
    return load_recipe("dryrun").with_overrides(
        {name.replace("__", "."): value for name, value in overrides.items()}
    )


def tiny_model(**overrides):
    """Return a model in eval mode and the processor of `tiny_recipe`."""
    model, processor = fresh_model(tiny_recipe(**overrides), TEXTS)
    return model.eval(), processor


def video(seed: int = 0, frames: int = 4, samples: int | None = 32_000, size: int = 32) -> Video:
    """Return a video of noise with so many audio samples, or without audio."""
    generator = np.random.default_rng(seed)
    return Video(
        frames_nhwc=generator.integers(0, 256, (frames, size, size, 3), dtype=np.uint8),
        frame_times_s=tuple(0.25 + 0.5 * index for index in range(frames)),
        audio=None if samples is None else generator.normal(0, 0.1, samples).astype(np.float32),
    )


def clip(seed: int = 0, **options) -> Clip:
    """Return one `video` as a clip."""
    return Clip(videos=(video(seed, **options),))


def image(seed: int = 0, size: int = 32) -> np.ndarray:
    """Return an image of noise."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def waveform(seed: int = 0, samples: int = 16_000) -> np.ndarray:
    """Return audio of noise."""
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)
