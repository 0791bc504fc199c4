"""From a conversation and its media to text in which every medium has the tokens that it takes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llava_av.media.clip import Clip, Video
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.sequence.chat_template import MARKS, ChatTemplate, Rendered
from llava_av.model.sequence.media_runs import MediaRuns

__all__ = ["Expanded", "expanded", "require_perceptible", "supported_media"]

Sound = npt.NDArray[np.float32]

_ROLES = {"human": "user", "gpt": "assistant"}
# The order in which media that no placeholder names come first.
_UNNAMED = ("video", "audio", "image")
_HEARD = re.compile(f"{MARKS['video']}|{MARKS['audio']}")


@dataclass(frozen=True, kw_only=True)
class Expanded:
    """A conversation as text with all its placeholder tokens."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """First character and the one after the last of each assistant's turn, its end token among them."""
    audios: tuple[Sound, ...]
    """Sounds, those of videos among them, in the order in which their tokens stand in the text."""


@dataclass(frozen=True)
class _Medium:
    run: str
    sound: Sound | None = None


def supported_media(clip: Clip, config: LlavaAvConfig) -> Clip:
    """The clip without those streams of its videos for which the model has no part.

    Sounds and images of their own stay, and are refused where the model cannot take them.
    """
    sees, hears = config.vision_config is not None, config.audio_config is not None
    if sees and hears:
        return clip
    return replace(clip, videos=Clip(videos=clip.videos).without(video=not sees, audio=not hears).videos)


def require_perceptible(clip: Clip, config: LlavaAvConfig) -> None:
    """Refuses a video of which the model would perceive nothing at all.

    Raises:
        ValueError: there is one; says which, what it lacks, and which part the model lacks.
    """
    supported = supported_media(clip, config).videos
    for place, (video, left) in enumerate(zip(clip.videos, supported, strict=True), 1):
        there = len(video.frames_nhwc) or video.audio is not None
        if there and not len(left.frames_nhwc) and left.audio is None:
            lacks, part = ("frames", "audio") if config.vision_config is not None else ("sound", "vision")
            raise ValueError(
                f"video {place} of {len(clip.videos)} has no {lacks}, and the model has no {part} part: "
                "nothing of it is left"
            )


def expanded(
    turns: Sequence[tuple[str, str]],
    clip: Clip,
    *,
    tokens: Mapping[str, str],
    template: ChatTemplate,
    runs: MediaRuns,
    reply: bool,
) -> Expanded:
    """Renders a conversation and puts runs of placeholder tokens where its media belong.

    Args:
        turns: (`human` or `gpt`, text) in order, with `<video>`, `<audio>` and `<image>` for media.
        clip: what the model perceives of them.
        tokens: placeholder tokens by kind of medium, of those kinds that the model takes.
        template: of the tokenizer.
        runs: the runs of each medium.
        reply: end with the opening of an assistant's turn.

    Raises:
        ValueError: more placeholders than media, or media of a kind that the model does not take; with both.
    """
    texts = _named([text for _, text in turns], clip, tokens)
    alone = len(clip.images_nhwc) == 1
    media = {
        "video": [_video(video, runs) for video in clip.videos],
        "audio": [_Medium(runs.sound(len(sound)), sound) for sound in clip.audios],
        "image": [_Medium(runs.image(image.shape[:2], alone=alone)) for image in clip.images_nhwc],
    }
    if "video" not in tokens:
        # a model that does not see hears a video as it hears any sound
        marks = [mark for text in texts for mark in _HEARD.findall(text)]
        waiting = {MARKS[kind]: iter(media[kind]) for kind in ("video", "audio")}
        media |= {"audio": [next(waiting[mark]) for mark in marks], "video": []}
        texts = [text.replace(MARKS["video"], MARKS["audio"]) for text in texts]
    speakers = [_ROLES.get(speaker, speaker) for speaker, _ in turns]
    rendered = template.render(list(zip(speakers, texts, strict=True)), reply=reply)
    return _placed(rendered, media, tokens)


def _video(video: Video, runs: MediaRuns) -> _Medium:
    samples = None if video.audio is None else len(video.audio)
    return _Medium(runs.video(len(video.frames_nhwc), video.frame_times_s, samples), video.audio)


def _named(texts: list[str], clip: Clip, tokens: Mapping[str, str]) -> list[str]:
    """Texts with a placeholder for each medium."""
    unnamed = ""
    given = {"video": clip.videos, "audio": clip.audios, "image": clip.images_nhwc}
    for kind in _UNNAMED:
        named = sum(text.count(MARKS[kind]) for text in texts)
        if named > len(given[kind]):
            raise ValueError(f"{named} <{kind}> placeholders but {len(given[kind])} {kind} files")
        if given[kind] and kind not in tokens and (kind != "video" or "audio" not in tokens):
            raise ValueError(
                f"{len(given[kind])} {kind} files, but the model takes {', '.join(tokens) or 'text alone'}"
            )
        unnamed += MARKS[kind] * (len(given[kind]) - named)
    return [unnamed + texts[0], *texts[1:]]


def _placed(
    rendered: Rendered, media: Mapping[str, Sequence[_Medium]], tokens: Mapping[str, str]
) -> Expanded:
    waiting = {kind: iter(of_kind) for kind, of_kind in media.items()}
    kinds = {token: kind for kind, token in tokens.items()}
    pieces: list[str] = []
    shifts: list[tuple[int, int]] = []
    sounds: list[Sound] = []
    done = grown = 0
    for match in re.finditer("|".join(map(re.escape, kinds)) or "(?!)", rendered.text):
        medium = next(waiting[kinds[match[0]]], None)
        if medium is None:
            raise ValueError(f"the conversation holds more {match[0]} than there are such media")
        pieces += [rendered.text[done : match.start()], medium.run]
        sounds += [] if medium.sound is None else [medium.sound]
        done = match.end()
        grown += len(medium.run) - len(match[0])
        shifts.append((match.start(), grown))
    lost = [kind for kind, left in waiting.items() if next(left, None) is not None]
    if lost:
        raise ValueError(f"the chat template leaves out media of these kinds: {', '.join(lost)}")
    spans = tuple((_moved(shifts, start), _moved(shifts, stop)) for start, stop in rendered.spans)
    return Expanded(text="".join([*pieces, rendered.text[done:]]), spans=spans, audios=tuple(sounds))


def _moved(shifts: Sequence[tuple[int, int]], place: int) -> int:
    """Where a character is after the placeholders before it have grown."""
    return place + next((grown for start, grown in reversed(shifts) if start < place), 0)
