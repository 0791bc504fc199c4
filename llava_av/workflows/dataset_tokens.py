"""Tokens of the samples of a commit for the model of a recipe, from the stored lengths of their media."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from llava_av.checkpoints import base_digest, base_folder, fetch_base
from llava_av.datasets.contents import Contents
from llava_av.datasets.manifest import safe_path
from llava_av.datasets.schema import Sample
from llava_av.datasets.statistics import Spread, spread_of
from llava_av.frozen import FrozenModel
from llava_av.media.clip import MediaSizes, VideoSize
from llava_av.media.decode import frame_times
from llava_av.media.image import size_within
from llava_av.media.info import MediaInfo
from llava_av.model import LlavaAvProcessor
from llava_av.model.files.reading import file_errors
from llava_av.model.loading.fresh_model import fresh_model
from llava_av.model.loading.saved_model import base_config
from llava_av.recipe import MediaRecipe, Recipe

__all__ = ["TokenStatistics", "count_tokens"]


class TokenStatistics(FrozenModel):
    """Tokens of each sample for one recipe."""

    recipe: str
    """Name of the recipe."""
    tokens: Spread | None
    """Tokens of each sample that could be measured; None if there is none."""
    unfit: int
    """Samples that the model cannot take, such as audio that is too short."""
    unknown: int
    """Samples with media whose properties are unknown."""


def count_tokens(contents: Contents, recipe: Recipe) -> TokenStatistics:
    """Count the tokens of each sample; those of audio are exact to a few packets of its track.

    Args:
        contents: Contents of a commit.
        recipe: Recipe with the model. A fresh model's tokenizer is trained on the samples, as in training.

    Raises:
        CheckpointError: There is no base model at `model.base`.
        ModelFilesError: The base model's folder is incomplete.
    """
    samples = [sample for own in contents.samples.values() for sample in own]
    with tempfile.TemporaryDirectory(prefix="llava-av-tokens-") as work:
        processor = _processor(recipe, contents.samples.get("train", tuple(samples)), Path(work))
        max_pixels = processor.image_resizing().max_image_pixels
        counts: list[float] = []
        unfit = unknown = 0
        for sample in samples:
            sizes = _sizes(sample, contents, recipe.media, max_pixels)
            if sizes is None:
                unknown += 1
                continue
            turns = [(turn.speaker, turn.value) for turn in sample.conversations]
            try:
                counts.append(processor.measure(turns, sizes).tokens)
            except ValueError:
                unfit += 1
    return TokenStatistics(recipe=recipe.name, tokens=spread_of(counts), unfit=unfit, unknown=unknown)


def _processor(recipe: Recipe, samples: Iterable[Sample], work: Path) -> LlavaAvProcessor:
    base = recipe.model.base
    if base is None:
        texts = (turn.value for sample in samples for turn in sample.conversations)
        # Only the processor is used: no weight is allocated.
        with torch.device("meta"):
            return fresh_model(recipe, texts)[1]
    if base.startswith("s3://"):
        folder = fetch_base(base, base_digest(base), work)
    else:
        folder = base_folder(base, "", work)
    with file_errors(f"the base model of {folder}"):
        saved = LlavaAvProcessor.from_pretrained(folder)
    parts = {name: getattr(saved, name, None) for name in ("image_processor", "video_processor")}
    return LlavaAvProcessor(saved.tokenizer, base_config(recipe, folder), **parts)


def _sizes(
    sample: Sample, contents: Contents, media: MediaRecipe, max_pixels: int | None
) -> MediaSizes | None:
    """Return the sizes of a sample's media as the recipe decodes them; None if one is unknown."""
    infos = {path: contents.info(safe_path(path)) for path in sample.media}
    known = {path: info for path, info in infos.items() if info is not None}
    if len(known) < len(infos):
        return None
    return MediaSizes(
        videos=tuple(_video(known[path], media, use_audio=sample.use_audio) for path in sample.video),
        audios=tuple(_audio_samples(known[path], media) for path in sample.audio),
        images=tuple(_image(known[path], media, max_pixels) for path in sample.image),
    )


def _video(info: MediaInfo, media: MediaRecipe, *, use_audio: bool) -> VideoSize:
    times_s = frame_times(info.duration_s, frames_per_s=media.frames_per_s, max_frames=media.max_frames)
    audio = _audio_samples(info, media) if use_audio and info.has_audio else None
    return VideoSize(frame_times_s=tuple(times_s), samples=audio)


def _audio_samples(info: MediaInfo, media: MediaRecipe) -> int:
    return round(min(info.duration_s, media.max_audio_s) * media.sample_rate_hz)


def _image(info: MediaInfo, media: MediaRecipe, max_pixels: int | None) -> tuple[int, int]:
    if max_pixels is None:
        return media.frame_size, media.frame_size
    return size_within(info.height, info.width, max_pixels)
