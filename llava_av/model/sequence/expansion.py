"""Expansion of a conversation: text in which every medium has its placeholder tokens.

Users write `<video>`, `<audio>` and `<image>` (`MEDIA_TAGS`) for the media of a clip, in order; media without
a tag come first. The chat template turns each tag into one placeholder token of its modality, and this module
replaces that token by as many as the medium has, while it moves the spans of the assistant's turns
accordingly.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llava_av.media.clip import Clip, Video
from llava_av.model.audio.front_end import AudioArray
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.sequence.chat_template import MEDIA_TAGS, ChatTemplate, RenderedChat
from llava_av.model.sequence.clip_tokens import ClipTokens

__all__ = [
    "ExpandedChat",
    "UnsupportedModalityError",
    "expand_conversation",
    "require_supported",
    "supported_media",
]

_ROLES = {"human": "user", "gpt": "assistant"}
# Order of media without a tag at the start of the conversation.
_UNTAGGED_ORDER = ("video", "audio", "image")
_AUDIBLE_TAG = re.compile(f"{MEDIA_TAGS['video']}|{MEDIA_TAGS['audio']}")


class UnsupportedModalityError(ValueError):
    """Media of a modality that the model does not take."""


@dataclass(frozen=True, kw_only=True)
class ExpandedChat:
    """Conversation as text with all its placeholder tokens."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Start and end offset of each assistant's turn, including its end token."""
    audios: tuple[AudioArray, ...]
    """Audio, including that of videos, in the order of its tokens in the text."""


@dataclass(frozen=True)
class _Medium:
    tokens: str
    audio: AudioArray | None = None


def supported_media(clip: Clip, config: LlavaAvConfig) -> Clip:
    """Return the clip whose videos have only the modalities that the model takes.

    Audio files and images stay, and encoding them fails if the model does not take them.
    """
    if config.has_vision and config.has_audio:
        return clip
    videos = Clip(videos=clip.videos).without(video=not config.has_vision, audio=not config.has_audio).videos
    return replace(clip, videos=videos)


def require_supported(clip: Clip, config: LlavaAvConfig) -> None:
    """Check that the model takes at least one modality of each video.

    Raises:
        UnsupportedModalityError: The model takes no modality of a video; names the video, and what it and the
            model lack.
    """
    for place, (video, left) in enumerate(
        zip(clip.videos, supported_media(clip, config).videos, strict=True), 1
    ):
        is_given = len(video.frames_nhwc) or video.audio is not None
        if is_given and not len(left.frames_nhwc) and left.audio is None:
            lacks, part = ("frames", "audio") if config.has_vision else ("audio", "vision")
            raise UnsupportedModalityError(
                f"video {place} of {len(clip.videos)} has no {lacks}, and the model has no {part} part: "
                "neither its frames nor its audio can be used"
            )


def expand_conversation(
    turns: Sequence[tuple[str, str]],
    clip: Clip,
    *,
    tokens: Mapping[str, str],
    template: ChatTemplate,
    clip_tokens: ClipTokens,
    reply: bool,
) -> ExpandedChat:
    """Render a conversation and replace its media tags by placeholder tokens.

    Args:
        turns: (`human` or `gpt`, text) in order, with `MEDIA_TAGS` for media.
        clip: Decoded media that the model takes.
        tokens: Placeholder tokens by modality, for the modalities that the model takes.
        template: Chat template of the tokenizer.
        clip_tokens: Writer of each medium's tokens.
        reply: True to end with the opening of an assistant's turn.

    Raises:
        ValueError: There are more tags than media, or media that the model does not take; names both.
    """
    texts = _with_all_tags([text for _, text in turns], clip, tokens)
    alone = len(clip.images_nhwc) == 1
    media = {
        "video": [_video(video, clip_tokens) for video in clip.videos],
        "audio": [_Medium(clip_tokens.audio(len(audio)), audio) for audio in clip.audios],
        "image": [_Medium(clip_tokens.image(image.shape[:2], alone=alone)) for image in clip.images_nhwc],
    }
    if "video" not in tokens:
        # a model without vision takes the audio of a video like an audio file
        tags = [tag for text in texts for tag in _AUDIBLE_TAG.findall(text)]
        waiting = {MEDIA_TAGS[modality]: iter(media[modality]) for modality in ("video", "audio")}
        media |= {"audio": [next(waiting[tag]) for tag in tags], "video": []}
        texts = [text.replace(MEDIA_TAGS["video"], MEDIA_TAGS["audio"]) for text in texts]
    roles = [_ROLES.get(speaker, speaker) for speaker, _ in turns]
    rendered = template.render(list(zip(roles, texts, strict=True)), reply=reply)
    return _replace_tokens(rendered, media, tokens)


def _video(video: Video, clip_tokens: ClipTokens) -> _Medium:
    samples = None if video.audio is None else len(video.audio)
    tokens = clip_tokens.video(len(video.frames_nhwc), video.frame_times_s, samples)
    return _Medium(tokens, video.audio)


def _with_all_tags(texts: list[str], clip: Clip, tokens: Mapping[str, str]) -> list[str]:
    """Return the texts with a tag for each medium."""
    untagged = ""
    given = {"video": clip.videos, "audio": clip.audios, "image": clip.images_nhwc}
    for modality in _UNTAGGED_ORDER:
        files = len(given[modality])
        tagged = sum(text.count(MEDIA_TAGS[modality]) for text in texts)
        if tagged > files:
            raise ValueError(
                f"{tagged} <{modality}> placeholders but {files} {modality} files: give one file for each"
            )
        if files and modality not in tokens and (modality != "video" or "audio" not in tokens):
            taken = ", ".join(tokens) or "text only"
            raise UnsupportedModalityError(
                f"{files} {modality} files do not fit the model, which accepts {taken}"
            )
        untagged += MEDIA_TAGS[modality] * (files - tagged)
    return [untagged + texts[0], *texts[1:]]


def _replace_tokens(
    rendered: RenderedChat, media: Mapping[str, Sequence[_Medium]], tokens: Mapping[str, str]
) -> ExpandedChat:
    waiting = {modality: iter(of_modality) for modality, of_modality in media.items()}
    modalities = {token: modality for modality, token in tokens.items()}
    pieces: list[str] = []
    shifts: list[tuple[int, int]] = []
    audios: list[AudioArray] = []
    done = grown = 0
    for match in re.finditer("|".join(map(re.escape, modalities)) or "(?!)", rendered.text):
        medium = next(waiting[modalities[match[0]]], None)
        if medium is None:
            raise ValueError(f"the conversation has more {match[0]} tokens than such media")
        pieces += [rendered.text[done : match.start()], medium.tokens]
        audios += [] if medium.audio is None else [medium.audio]
        done = match.end()
        grown += len(medium.tokens) - len(match[0])
        shifts.append((match.start(), grown))
    lost = [modality for modality, left in waiting.items() if next(left, None) is not None]
    if lost:
        raise ValueError(f"the chat template drops media of these modalities: {', '.join(lost)}")
    spans = tuple((_shifted(shifts, start), _shifted(shifts, stop)) for start, stop in rendered.spans)
    return ExpandedChat(text="".join([*pieces, rendered.text[done:]]), spans=spans, audios=tuple(audios))


def _shifted(shifts: Sequence[tuple[int, int]], offset: int) -> int:
    """Return a character's offset after the tokens before it have been replaced."""
    return offset + next((grown for start, grown in reversed(shifts) if start < offset), 0)
