"""The demonstration's scenes: factors, their balanced design, and how a scene looks and sounds.

A scene lasts four segments of half a second. A shape shows each of four colours for one segment, and each of
four sounds is heard in one segment. Which colour went with which sound can be told only by seeing and hearing
at once.

Scenes come in blocks of 16: four video streams times four audio streams. The video streams are the four
rotations in time of one of them, each with another shape; the audio streams are the four rotations of one of
them. So over a block each colour meets each sound in each segment equally often: every answer is exactly
balanced given the question, given the video stream and given the audio stream (but for questions that this
very stream answers). Blocks share no scene.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "COLOURS",
    "FPS",
    "SAMPLE_RATE_HZ",
    "SEGMENTS",
    "SEGMENT_S",
    "SHAPES",
    "SOUNDS",
    "Scene",
    "render_scene",
    "scene_blocks",
]

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow")
SOUNDS = ("beep", "hum", "hiss", "buzz")
SEGMENTS = 4
SEGMENT_S = 0.5
FPS = 8
SAMPLE_RATE_HZ = 16_000
SIZE = 64

_RGB = {"red": (215, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 225), "yellow": (225, 205, 45)}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The generating factors of one clip."""

    shape: str
    colours: tuple[str, ...]
    """Colour in each segment, each of `COLOURS` once."""
    sounds: tuple[str, ...]
    """Sound in each segment, each of `SOUNDS` once."""

    @property
    def video_factors(self) -> tuple[str, tuple[str, ...]]:
        """All that the video stream is made from, noise apart."""
        return self.shape, self.colours

    def colour_during(self, sound: str) -> str:
        """The colour shown while `sound` is heard."""
        return self.colours[self.sounds.index(sound)]

    def sound_during(self, colour: str) -> str:
        """The sound heard while `colour` is shown."""
        return self.sounds[self.colours.index(colour)]


def scene_blocks(seed: int, count: int) -> list[tuple[Scene, ...]]:
    """`count` blocks of 16 scenes in an order that depends on `seed`; no scene comes twice.

    Raises:
        ValueError: more blocks asked for than there are.
    """
    first_colour, first_sound = COLOURS[0], SOUNDS[0]
    colourings = [(first_colour, *rest) for rest in itertools.permutations(COLOURS[1:])]
    soundings = [(first_sound, *rest) for rest in itertools.permutations(SOUNDS[1:])]
    bases = list(itertools.product(range(len(SHAPES)), colourings, soundings))
    if count > len(bases):
        raise ValueError(f"{count} blocks asked for, but there are {len(bases)}")
    order = np.random.default_rng([seed, 0x5CE7E]).permutation(len(bases))
    return [tuple(_block(*bases[index])) for index in order[:count]]


def _block(first_shape: int, colours: tuple[str, ...], sounds: tuple[str, ...]) -> Iterator[Scene]:
    for seen, heard in itertools.product(range(SEGMENTS), range(SEGMENTS)):
        yield Scene(
            shape=SHAPES[(first_shape + seen) % len(SHAPES)],
            colours=colours[seen:] + colours[:seen],
            sounds=sounds[heard:] + sounds[:heard],
        )


def render_scene(scene: Scene, noise_seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Draws and sounds a scene.

    Args:
        scene: the factors.
        noise_seed: seed of all that no question asks for: place, size, shades, pitch, loudness, noise.

    Returns:
        Frames `[16, 64, 64, 3]` at `FPS` frames per second, and sound `[32000]` in -1 to 1 at
        `SAMPLE_RATE_HZ`.
    """
    generator = np.random.default_rng([noise_seed, 0xA0D10])
    return _draw(scene, generator), _sound(scene, generator)


def _draw(scene: Scene, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    background = generator.uniform(40, 100) + generator.normal(0, 4, (SIZE, SIZE, 1))
    centre_x, centre_y = generator.uniform(26, SIZE - 26, 2)
    inside = _inside(scene.shape, centre_x, centre_y, generator.uniform(20, 26))[..., None]
    shade = generator.uniform(0.85, 1.1)
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
        arm = radius * 0.5
        inside = ((abs(dx) <= arm) | (abs(dy) <= arm)) & (np.maximum(abs(dx), abs(dy)) <= radius)
    return inside


def _sound(scene: Scene, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    length = round(SEGMENTS * SEGMENT_S * SAMPLE_RATE_HZ)
    mixed = generator.normal(0, generator.uniform(0.003, 0.015), length)
    for segment, name in enumerate(scene.sounds):
        start = round((segment * SEGMENT_S + generator.uniform(0.04, 0.12)) * SAMPLE_RATE_HZ)
        wave = _wave(name, generator)
        mixed[start : start + len(wave)] += wave
    return np.clip(mixed, -1, 1).astype(np.float32)


def _wave(name: str, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """A third of a second of one sound: high tone, low tone, noise, or square wave."""
    time_s = np.arange(round(0.34 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    phase = generator.uniform(0, 2 * np.pi)
    if name == "hiss":
        wave = generator.normal(0, 0.5, len(time_s))
    elif name == "buzz":
        wave = 0.7 * np.sign(np.sin(2 * np.pi * generator.uniform(90, 120) * time_s + phase))
    else:
        pitch_hz = generator.uniform(1400, 1800) if name == "beep" else generator.uniform(350, 450)
        wave = np.sin(2 * np.pi * pitch_hz * time_s + phase)
    fade = np.minimum(1, np.minimum(time_s, time_s[::-1]) / 0.02)
    return np.asarray(generator.uniform(0.2, 0.5) * fade * wave)
