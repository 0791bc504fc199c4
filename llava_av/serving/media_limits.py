"""Limits of media files, checked from headers and packets by the process that decodes the files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from llava_av.datasets.loading import LocatedSample, load_located
from llava_av.datasets.schema import Sample
from llava_av.media.check import check_headers
from llava_av.media.clip import Clip
from llava_av.media.container import open_media
from llava_av.media.image_formats import image_format
from llava_av.media.info import MediaError, MediaInfo
from llava_av.media.resizing import ImageResizing
from llava_av.media.tracks import video_stream
from llava_av.recipe import MediaRecipe
from llava_av.serving.limits import ServingLimits

__all__ = ["decode_within", "media_sample"]

_Modality = Literal["image", "video", "audio"]


def media_sample(
    request_id: str,
    names: Mapping[str, Sequence[str]],
    files: Mapping[str, Path],
    *,
    use_audio: bool = True,
) -> LocatedSample:
    """Return the media of a request as a sample, which the decoding processes take.

    Args:
        request_id: ID of the request, for messages.
        names: Names of the media of each modality.
        files: File of each name.
        use_audio: True to use the audio of videos.
    """
    conversation = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]
    fields = {"id": request_id, "conversations": conversation, "use_audio": use_audio, **names}
    return LocatedSample(sample=Sample.model_validate(fields), files=files)


def decode_within(
    located: LocatedSample, limits: ServingLimits, media: MediaRecipe, resizing: ImageResizing
) -> Clip:
    """Decode the media of a request if all files are within the limits by their headers and packets.

    Raises:
        MediaError: A file exceeds a limit, is damaged, or has another modality.
    """
    sample = located.sample
    named: dict[_Modality, tuple[str, ...]] = {
        "image": sample.image,
        "video": sample.video,
        "audio": sample.audio,
    }
    for modality, names in named.items():
        for name in names:
            _require_within(name, located.files[name], modality, limits)
    return load_located(located, media, resizing)


def _require_within(name: str, path: Path, modality: _Modality, limits: ServingLimits) -> None:
    try:
        info = check_headers(path)
    except MediaError as error:
        raise MediaError(name, error.reason) from None
    measured: dict[str, tuple[float, float]] = {
        "seconds": (max(info.duration_s, info.audio_end_s or 0.0), limits.media_s),
        "pixels": (info.width * info.height, limits.media_pixels),
        "frames": (_frames(path, info), limits.media_frames),
    }
    for unit, (found, most) in measured.items():
        if not found <= most:
            raise MediaError(name, f"has {found:,.10g} {unit}, must be ≤ {most:,.10g}: send a smaller file")
    if not info.serves_as(modality):
        holds = "has no audio track" if modality == "audio" else f"is {info.description}"
        raise MediaError(name, f"{holds}, but is sent as {modality}: send it as {info.kind}_url")


def _frames(path: Path, info: MediaInfo) -> int:
    """Count the frames of a video without decoding them; headers may state too few, or a wrong frame rate."""
    if info.kind != "video":
        return 0
    if image_format(path) is not None:
        return info.frames or 0
    with open_media(path) as container:
        return sum(bool(packet.size) for packet in container.demux(video_stream(container)))
