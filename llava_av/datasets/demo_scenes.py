"""Scenes of the demonstration: their factors, the balanced design, and their frames and audio.

A scene lasts four segments of half a second. A shape has each of four colours for one segment; a high tone
sounds in one segment and a low tone in another. Which colour is shown *while* a tone sounds, and which tone
sounds while a colour is shown, can be answered only from video and audio together.

Scenes come in blocks of 16: four videos times four audio tracks. The videos are the four rotations in time of
one of them, each with another shape, so every segment shows each colour once per block. In the audio tracks
the high tone takes each segment once, the low tone takes each segment once, and the high tone comes first in
two of four. Hence within a block every answer is exactly balanced given the question, given the video and
given the audio (except for questions that this modality alone answers).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llava_av.media.clip import FramesArray, Waveform

__all__ = ["COLOURS", "FPS", "SAMPLE_RATE_HZ", "SHAPES", "Scene", "render_scene", "scene_blocks"]

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow")
SEGMENTS = 4
SEGMENT_S = 0.5
FPS = 8
SAMPLE_RATE_HZ = 16_000
SIZE = 64

_RGB = {"red": (215, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 225), "yellow": (225, 205, 45)}
_BACKGROUNDS = tuple((level, level + 15.0) for level in (50.0, 67.0, 84.0, 101.0, 118.0, 135.0))
_PITCH_HZ = {"high": (1400.0, 1800.0), "low": (350.0, 450.0)}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Generating factors of one clip."""

    shape: str
    colours: tuple[str, ...]
    """Colour in each segment, each of `COLOURS` once."""
    background: int
    """Grey level behind the shape, one of six from dark to bright."""
    high: int
    """Segment in which the high tone sounds."""
    low: int
    """Segment in which the low tone sounds, another than `high`."""


def scene_blocks(seed: int, count: int) -> list[tuple[Scene, ...]]:
    """Return `count` blocks of 16 scenes in an order that depends on `seed`; no scene occurs twice.

    Raises:
        ValueError: There are not enough distinct scenes for this many blocks.
    """
    generator = np.random.default_rng([seed, 0x5CE7E])
    blocks = _all_blocks()
    order = generator.permutation(len(blocks))
    used: set[Scene] = set()
    chosen: list[tuple[Scene, ...]] = []
    for index in order:
        if len(chosen) == count:
            break
        scenes = tuple(_block_scenes(*blocks[index]))
        if used.isdisjoint(scenes):
            used.update(scenes)
            chosen.append(scenes)
    if len(chosen) < count:
        raise ValueError(f"{count} blocks requested, but only {len(chosen)} share no scene")
    return chosen


_Base = tuple[int, tuple[str, ...], int, tuple[int, ...]]


def _all_blocks() -> list[_Base]:
    colourings = [("red", *rest) for rest in itertools.permutations(COLOURS[1:])]
    backgrounds = range(len(_BACKGROUNDS))
    return list(itertools.product(range(len(SHAPES)), colourings, backgrounds, _balanced_derangements()))


def _balanced_derangements() -> list[tuple[int, ...]]:
    """Return the maps from the high tone's segment to the low tone's: never equal, half of them later."""
    return [
        lows
        for lows in itertools.permutations(range(SEGMENTS))
        if all(low != high for high, low in enumerate(lows))
        and sum(low > high for high, low in enumerate(lows)) == SEGMENTS // 2
    ]


def _block_scenes(
    first_shape: int, colours: tuple[str, ...], background: int, lows: tuple[int, ...]
) -> Iterator[Scene]:
    for turn, high in itertools.product(range(SEGMENTS), range(SEGMENTS)):
        yield Scene(
            shape=SHAPES[(first_shape + turn) % len(SHAPES)],
            colours=colours[turn:] + colours[:turn],
            background=background,
            high=high,
            low=lows[high],
        )


def render_scene(scene: Scene, noise_seed: int) -> tuple[FramesArray, Waveform]:
    """Render the frames and the audio of a scene.

    Args:
        scene: Factors of the scene.
        noise_seed: Seed of what no question asks about: position, size, shades, pitch, loudness, noise.

    Returns:
        Frames `[16, 64, 64, 3]` at `FPS` frames per second, and audio `[32000]` in -1 to 1 at
        `SAMPLE_RATE_HZ`.
    """
    generator = np.random.default_rng([noise_seed, 0xA0D10])
    return _frames(scene, generator), _audio(scene, generator)


def _frames(scene: Scene, generator: np.random.Generator) -> FramesArray:
    texture = generator.normal(0, 4, (SIZE, SIZE, 1))
    radius = generator.uniform(18, 24)
    centre_x, centre_y = generator.uniform(26, SIZE - 26, 2)
    inside = _inside(scene.shape, centre_x, centre_y, radius)[..., None]
    shade = generator.uniform(0.85, 1.1)
    background = generator.uniform(*_BACKGROUNDS[scene.background]) + texture
    frames = []
    for colour in scene.colours:
        painted = np.where(inside, np.array(_RGB[colour]) * shade, background)
        for _ in range(round(SEGMENT_S * FPS)):
            noisy = painted + generator.normal(0, 5, (SIZE, SIZE, 1))
            frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return np.stack(frames)


def _inside(shape: str, x: float, y: float, radius: float) -> npt.NDArray[np.bool_]:
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    dx, dy = columns - x, rows - y
    inside: npt.NDArray[np.bool_]
    if shape == "circle":
        inside = dx**2 + dy**2 <= radius**2
    elif shape == "square":
        inside = np.maximum(abs(dx), abs(dy)) <= radius * 0.88
    elif shape == "triangle":
        inside = (dy <= radius * 0.8) & (dy >= -radius + 2 * abs(dx) * 0.95)
    else:
        arm = radius * 0.36
        inside = ((abs(dx) <= arm) | (abs(dy) <= arm)) & (np.maximum(abs(dx), abs(dy)) <= radius)
    return inside


def _audio(scene: Scene, generator: np.random.Generator) -> Waveform:
    length = round(SEGMENTS * SEGMENT_S * SAMPLE_RATE_HZ)
    audio = generator.normal(0, generator.uniform(0.003, 0.015), length)
    for name, segment in (("high", scene.high), ("low", scene.low)):
        start = round((segment * SEGMENT_S + generator.uniform(0.04, 0.12)) * SAMPLE_RATE_HZ)
        tone = _tone(
            generator.uniform(*_PITCH_HZ[name]), generator.uniform(0.2, 0.5), generator.uniform(0, 6.28)
        )
        audio[start : start + len(tone)] += tone
    return np.clip(audio, -1, 1).astype(np.float32)


def _tone(pitch_hz: float, loudness: float, phase: float) -> npt.NDArray[np.float64]:
    time_s = np.arange(round(0.34 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    fade = np.minimum(1, np.minimum(time_s, time_s[::-1]) / 0.02)
    return np.asarray(loudness * fade * np.sin(2 * np.pi * pitch_hz * time_s + phase))
