"""Keys of a line that a user wrote: aliases are renamed, likely mistakes are refused.

An unknown key is harmless if it is metadata, but a misspelt `video` would turn the sample into text.
Therefore an unknown key is refused if it resembles or means a known one, if its value looks like a media
file, or if it mentions media in a sample without media. All other unknown keys are ignored, and `metadata` is
never inspected.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llava_av.documents import close_name

__all__ = ["CONVERT", "EXAMPLE", "KEYS", "KeyProblem", "canonical_keys", "media_kind"]

KEYS = ("id", "conversations", "image", "video", "audio", "use_audio", "kind", "choices", "split")
"""Keys of a sample."""
EXAMPLE = json.dumps(
    {
        "id": "1",
        "video": "clip.mp4",
        "conversations": [
            {"from": "human", "value": "<video>\nWhat happens?"},
            {"from": "gpt", "value": "A dog barks."},
        ],
    }
)
"""A valid line."""
CONVERT = "llava-av data convert FILE NEW.jsonl"
"""Command that converts the formats of other tools."""
_REQUIRED = ("id", "conversations")
_TURN_KEYS = ("from", "value")
_FREE = "metadata"
_MEDIA = ("image", "video", "audio")
# Names of exactly these keys in other tools: LLaMA-Factory, ms-swift, Qwen-VL, OpenAI-like exports.
_ALIASES = {
    **{f"{kind}{ending}": kind for kind in _MEDIA for ending in ("s", "_path", "_paths", "_file", "_files")},
    "use_audio_in_video": "use_audio",
}
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("held_out", "held-out", "heldout", "val", "valid", "validation"), "held_out"),
    **dict.fromkeys(("dev", "test", "testing", "eval", "evaluation"), "held_out"),
}
_OTHER_FORMATS = ("messages", "query", "instruction", "prompt", "question")
_OTHER_SPEAKERS = ("user", "assistant", "system", "bot", "model")
# Other words for known keys, with the types of their values. A `set` also needs a split's name as its value.
_SYNONYMS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "options": ("choices", (str, list, dict)),
    "set": ("split", (str,)),
}
# Types of a misspelt key's value.
_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys((*_MEDIA, *(f"{kind}s" for kind in _MEDIA)), (str, list)),
    "conversations": (list,),
    "choices": (list, dict),
    "use_audio": (bool, str),
    "id": (str, int),
    **dict.fromkeys(("kind", "split"), (str,)),
}
_CLOSE, _MOST_LETTERS = 0.8, 2
# A letter swapped in a key as short as `from` costs a quarter.
_TURN_CLOSE = 0.7
_MEDIA_WORD = re.compile(
    r"(?:^|[_.\- ])(videos?|images?|imgs?|pictures?|photos?|frames?|film|media|clips?|audios?|sounds?|speech"
    r"|wav)(?=$|[_.\- ])",
    re.IGNORECASE,
)
_MEDIA_ENDING = re.compile(
    r"\.(mp4|m4v|mov|mkv|webm|avi|wmv|flv|mpe?g|ts|3gp|ogv|wav|mp3|flac|og[ga]|opus|m4a|aac|aiff?|wma|caf"
    r"|jpe?g|png|webp|gif|bmp|tiff?|avif|hei[cf]|jp2)\s*\Z",
    re.IGNORECASE,
)


class KeyProblem(ValueError):
    """Keys that cannot be used; the text says which and what to do."""


def media_kind(key: str) -> str | None:
    """Return `image`, `video` or `audio` if a key names media files, also under an alias."""
    name = _ALIASES.get(key, key)
    return name if name in _MEDIA else None


def canonical_keys(line: Mapping[str, object], convert: str = CONVERT) -> dict[str, object]:
    """Return the keys of a sample under their canonical names.

    Args:
        line: JSON object that a user wrote.
        convert: Command for messages that converts the line's file if it has another format.

    Raises:
        KeyProblem: The line has another format, a key twice, or an unknown key that is likely a mistake.
    """
    _require_conversations(line, f"convert the file with `{convert}`; a valid line is {EXAMPLE}")
    known: dict[str, object] = {}
    for key, value in line.items():
        name = _ALIASES.get(key, key)
        if name not in KEYS or (value is None and name not in _REQUIRED) or (name in _MEDIA and value == []):
            continue
        if name in known and known[name] != value:
            raise KeyProblem(f"{name} is given twice, the second time as {key!r}: keep one")
        known[name] = value
    has_media = any(known.get(kind) for kind in _MEDIA)
    for key, value in line.items():
        if key not in KEYS and key not in _ALIASES and key != _FREE and value not in (None, "", []):
            _require_harmless(key, value, has_media=has_media, has_id="id" in known)
    split = known.get("split")
    if isinstance(split, str):
        known["split"] = _SPLITS.get(split.strip().lower(), split)
    return known


def _require_conversations(line: Mapping[str, object], advice: str) -> None:
    """Refuse misspelt keys of turns, and formats of other tools with the command that converts them."""
    turns = line.get("conversations")
    if turns is None:
        other = next((key for key in _OTHER_FORMATS if key in line), None)
        if other is not None:
            raise KeyProblem(f"{other} instead of conversations: {advice}")
    if not isinstance(turns, list):
        return
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            continue
        if "from" not in turn and ("role" in turn or "content" in turn):
            raise KeyProblem(f"turn {number} has role and content instead of from and value: {advice}")
        if turn.get("from") in _OTHER_SPEAKERS:
            raise KeyProblem(f"turn {number} is from {turn['from']!r}, not from human or gpt: {advice}")
        for key in turn.keys() - {*_TURN_KEYS, "speaker"}:
            near = close_name(key.lower(), [one for one in _TURN_KEYS if one not in turn], cutoff=_TURN_CLOSE)
            if near:
                raise KeyProblem(f"turn {number} has the unknown key {key!r}: did you mean {near!r}?")
            if path := next(_media_paths(turn[key]), None):
                raise KeyProblem(f"turn {number} names {path!r} under {key!r}: {_where_media_go()}")


def _require_harmless(key: str, value: Any, *, has_media: bool, has_id: bool) -> None:
    near = _near(key, value)
    if near == "id" and has_id:
        near = None
    if near is not None:
        raise KeyProblem(f"unknown key {key!r}: did you mean {near!r}? Keys of your own go under {_FREE!r}")
    for path in _media_paths(value):
        # An address in a sample with media is their source.
        if not has_media or "://" not in path:
            raise KeyProblem(f"unknown key {key!r} names {path!r}: {_where_media_go()}")
    if not has_media and _MEDIA_WORD.search(key) and any(_texts(value)):
        raise KeyProblem(f"unknown key {key!r} in a sample without media: {_where_media_go()}")


def _where_media_go() -> str:
    return f"name media files under image, video or audio, and keys of your own under {_FREE!r}"


def _near(key: str, value: Any) -> str | None:
    """Return the known key that this one likely means, if the value has that key's type."""
    written = key.strip().lower()
    meant, allowed = _SYNONYMS.get(written, ("", ()))
    if isinstance(value, allowed) and (meant != "split" or str(value).strip().lower() in _SPLITS):
        return meant
    names = [
        name
        for name, types in _TYPES.items()
        if isinstance(value, types) and abs(len(name) - len(written)) <= _MOST_LETTERS
    ]
    swapped = [name for name in names if sorted(name) == sorted(written)]
    near = swapped[0] if swapped else close_name(written, names, cutoff=_CLOSE)
    return _ALIASES.get(near, near) if near else None


def _media_paths(value: Any) -> Iterator[str]:
    return (text for text in _texts(value) if "\n" not in text and _MEDIA_ENDING.search(text))


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, at any depth."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping | list):
            pending += part.values() if isinstance(part, Mapping) else part
