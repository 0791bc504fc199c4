"""Statistics of the contents of a commit: kinds, modalities, lengths, sizes and rates."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from llava_av.datasets.comparison import count_contents
from llava_av.datasets.contents import Contents
from llava_av.datasets.manifest import safe_path
from llava_av.datasets.schema import Sample
from llava_av.frozen import FrozenModel
from llava_av.media.info import MediaInfo

__all__ = ["Spread", "Statistics", "modalities_of", "spread_of", "statistics_of"]


class Spread(FrozenModel):
    """Minimum, median, mean, 95th percentile and maximum of some numbers."""

    count: int
    min: float
    median: float
    mean: float
    p95: float
    max: float


class Statistics(FrozenModel):
    """Statistics of samples and media files; a file whose properties are unknown counts only in `unknown`."""

    counts: dict[str, Any]
    """Samples, splits, kinds, files and bytes; see `comparison.Counts`."""
    modalities: dict[str, int]
    """Samples by modalities, such as `video+audio`; `video+?` if it is unknown whether a video has audio."""
    answer_words: Spread | None
    """Words of each answer; None without samples."""
    answer_characters: Spread | None
    turns: Spread | None
    """Turns of each sample."""
    media: dict[str, int]
    """Files by kind: video, audio, image."""
    unknown: int
    """Files whose properties are unknown, because an earlier version committed them."""
    hours: dict[str, float]
    """Hours of video and of audio files, of known files."""
    duration_s: Spread | None
    """Seconds of each known video or audio file."""
    resolutions: dict[str, int]
    """Videos and images by width and height in pixels, the most frequent first."""
    frame_rates: dict[str, int]
    """Videos by frames per second, `unknown` if the container does not state it."""
    sample_rates_hz: dict[str, int]
    """Files with audio by samples per second."""


def statistics_of(contents: Contents) -> Statistics:
    """Compute the statistics of contents."""
    samples = [sample for own in contents.samples.values() for sample in own]
    answers = [turn.value for sample in samples for turn in sample.conversations if turn.speaker == "gpt"]
    known = [info for path in contents.files if (info := contents.info(path)) is not None]
    timed = [info for info in known if info.kind != "image"]
    videos = [info for info in known if info.kind == "video"]
    return Statistics(
        counts=asdict(count_contents(contents)),
        modalities=_counted(modalities_of(sample, contents.has_audio) for sample in samples),
        answer_words=spread_of([len(answer.split()) for answer in answers]),
        answer_characters=spread_of(list(map(len, answers))),
        turns=spread_of([len(sample.conversations) for sample in samples]),
        media=_counted(info.kind for info in known),
        unknown=len(contents.files) - len(known),
        hours={kind: _hours(info for info in timed if info.kind == kind) for kind in ("video", "audio")},
        duration_s=spread_of([info.duration_s for info in timed]),
        resolutions=_counted(f"{info.width}x{info.height}" for info in known if info.kind != "audio"),
        frame_rates=_counted("unknown" if info.fps is None else f"{info.fps:.4g}" for info in videos),
        sample_rates_hz=_counted(str(info.sample_rate_hz) for info in known if info.has_audio),
    )


def spread_of(values: Sequence[float]) -> Spread | None:
    """Return the spread of values; None without any."""
    if not values:
        return None
    ordered = sorted(values)
    return Spread(
        count=len(ordered),
        min=ordered[0],
        median=statistics.median(ordered),
        mean=round(math.fsum(ordered) / len(ordered), 3),
        p95=ordered[math.ceil(0.95 * len(ordered)) - 1],
        max=ordered[-1],
    )


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _hours(infos: Iterable[MediaInfo]) -> float:
    return round(math.fsum(info.duration_s for info in infos) / 3600, 6)


def modalities_of(sample: Sample, has_audio: Callable[[str], bool | None]) -> str:
    """Return the modalities of a sample as in `Statistics.modalities`.

    Args:
        sample: The sample.
        has_audio: Checks whether the video at a path has audio; None if it is unknown.
    """
    names = [name for name in ("image", "video") if getattr(sample, name)]
    tracks = {has_audio(safe_path(path)) for path in sample.video} if sample.use_audio else set()
    if sample.audio or True in tracks:
        names.append("audio")
    elif None in tracks:
        names.append("?")
    return "+".join(names) or "text"
