"""One line of `conversations.jsonl`: a sample in LLaVA's JSON form."""

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from llava_av.datasets.sources.line_keys import CONVERT, KeyProblem, canonical_keys
from llava_av.datasets.sources.sample_checks import unusable
from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.parsing import unique_object

__all__ = [
    "Sample",
    "SampleError",
    "Split",
    "Turn",
    "parse_row",
    "parse_sample",
    "parse_stored",
    "to_jsonl",
]

Split = Literal["train", "held_out"]


class SampleError(UserError):
    """A line that is not a valid sample. `line` counts from 1; the one-line text contains it and `reason`."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


# Extra keys are ignored here: `llava_av.datasets.sources.line_keys` has refused likely mistakes.
class _Frozen(FrozenModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else [] if value is None else value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_Text = Annotated[str, Field(min_length=1)]
_Paths = Annotated[tuple[_Text, ...], BeforeValidator(_as_list)]


_MARKS = (("image", "<image>"), ("video", "<video>"), ("audio", "<audio>"))
_PLACEHOLDERS = tuple(mark for _, mark in _MARKS)
# As in llava_av.model.sequence.tokenizer. These tokens in text would be read as media or as a turn's end.
_RESERVED = ("<|image|>", "<|video|>", "<|audio|>", "<|im_start|>", "<|im_end|>", "<|pad|>")


class Turn(_Frozen):
    """One turn of a conversation."""

    speaker: Literal["human", "gpt"] = Field(alias="from")
    """JSON key `from`; a model is trained on the turns of `gpt`."""
    value: _Text
    """Text; in human turns `<image>`, `<video>` and `<audio>` stand for the sample's media in order."""


class Sample(_Frozen):
    """One conversation about media. Paths are relative to the dataset's folder."""

    id: Annotated[_Text, BeforeValidator(_as_text)]
    """Unique in its dataset; determines the split of a sample without media."""
    conversations: tuple[Turn, ...] = Field(min_length=1)
    """Alternating turns of human and gpt; the first is human, the last gpt."""
    image: _Paths = ()
    """Image files; a string or a list in JSON."""
    video: _Paths = ()
    """Video files; a string or a list in JSON."""
    audio: _Paths = ()
    """Audio files in addition to the videos' own audio; a string or a list in JSON."""
    use_audio: bool = True
    """Use the videos' own audio."""
    kind: _Text = "all"
    """Kind of question; accuracy is reported for each kind."""
    choices: tuple[_Text, ...] = ()
    """Allowed answers; empty for an open question."""
    split: Split | None = None
    """Split of the sample; if None, `llava_av.datasets.split` decides."""
    dataset: str = Field(default="", exclude=True)
    """Name of the dataset in a run of several (`llava_av.datasets.mix`); empty otherwise."""

    @property
    def has_media(self) -> bool:
        """Return whether the sample names any file."""
        return bool(self.image or self.video or self.audio)

    @property
    def media_key(self) -> tuple[object, ...]:
        """Return a value that is equal for samples with the same decoded media; unique without media."""
        media = (self.image, self.video, self.audio)
        return (*media, self.use_audio) if self.has_media else (self.id,)

    @model_validator(mode="after")
    def _turns_alternate(self) -> Self:
        for number, turn in enumerate(self.conversations, start=1):
            expected = "human" if number % 2 else "gpt"
            if turn.speaker != expected:
                raise ValueError(f"turn {number} is from {turn.speaker}, not from {expected}")
        if len(self.conversations) % 2:
            raise ValueError("the last turn is from human: add an answer from gpt")
        return self

    @model_validator(mode="after")
    def _nothing_is_reserved(self) -> Self:
        for number, turn in enumerate(self.conversations, start=1):
            # A model is trained on gpt's turns, which cannot contain media.
            refused = _RESERVED if turn.speaker == "human" else (*_RESERVED, *_PLACEHOLDERS)
            for token in refused:
                if token in turn.value:
                    raise ValueError(f"turn {number} from {turn.speaker} contains the reserved text {token}")
        return self

    @model_validator(mode="after")
    def _placeholders_have_media(self) -> Self:
        # No placeholder contains a newline, so none arises between two turns.
        text = "\n".join([turn.value for turn in self.conversations])
        for name, mark in _MARKS:
            if mark in text and (marks := text.count(mark)) > len(getattr(self, name)):
                files = len(getattr(self, name))
                raise ValueError(f"{marks} {mark} in the conversation, but {files} {name} files")
        return self

    @property
    def media(self) -> tuple[str, ...]:
        """Paths of all media: images, videos, audio files."""
        return self.image + self.video + self.audio

    def to_json_line(self) -> str:
        """Return canonical JSON on one line without a newline: sorted keys, media as lists, no defaults."""
        data = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def parse_sample(line: str | bytes, number: int, convert: str = CONVERT) -> Sample:
    """Parse one line that a user wrote.

    Args:
        line: JSON text, UTF-8 if bytes.
        number: Number of the line in its file, from 1, for errors.
        convert: Command for errors that converts the file if it has another format.

    Raises:
        SampleError: The line is not UTF-8, not JSON, or not a sample; names the line and the field.
    """
    data = _json(line, number, unique_object)
    # In bytes, which are UTF-8, only an escape can be half of a pair.
    if isinstance(line, str) or b"\\u" in line:
        _require_unicode(data, number)
    return _parsed(data, number, convert)


def parse_row(data: Any, number: int, convert: str = CONVERT) -> Sample:
    """Validate one JSON value that a user wrote; arguments and errors as for `parse_sample`."""
    _require_unicode(data, number)
    return _parsed(data, number, convert)


def _parsed(data: Any, number: int, convert: str) -> Sample:
    if not isinstance(data, dict):
        raise SampleError(number, f"not a JSON object but {_JSON_NAMES.get(type(data), 'a number')}")
    try:
        sample = _validated(canonical_keys(data, convert), number)
    except KeyProblem as error:
        raise SampleError(number, str(error)) from None
    problem = unusable(sample)
    if problem is not None:
        raise SampleError(number, problem)
    return sample


def parse_stored(line: str | bytes, number: int) -> Sample:
    """Parse one line of a commit, which an older version may have checked less strictly."""
    return _validated(_json(line, number), number)


def _json(line: str | bytes, number: int, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    try:
        text = line.decode("utf-8") if isinstance(line, bytes) else line
        return json.loads(text, object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise _not_unicode(number, error) from None
    except json.JSONDecodeError as error:
        raise SampleError(number, f"not valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise SampleError(number, f"not usable JSON: {str(error).splitlines()[0]}") from None


def _require_unicode(data: Any, number: int) -> None:
    """Refuse half of a surrogate pair, which JSON can express but files, paths and tokenizers cannot."""
    try:
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _not_unicode(number, error) from None
    except (ValueError, RecursionError) as error:
        raise SampleError(number, f"not usable JSON: {str(error).splitlines()[0]}") from None


def _not_unicode(number: int, error: UnicodeDecodeError | UnicodeEncodeError) -> SampleError:
    return SampleError(number, f"not valid UTF-8 text ({error.reason} at position {error.start})")


def _validated(data: Any, number: int) -> Sample:
    try:
        return Sample.model_validate(data)
    except ValidationError as error:
        raise SampleError(number, _first_reason(error)) from None


def to_jsonl(samples: Sequence[Sample]) -> str:
    """Return samples as canonical JSON Lines text."""
    return "".join(sample.to_json_line() + "\n" for sample in samples)


_JSON_NAMES = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}


# Requirement on a field, by the type of pydantic's error.
_MUST = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


def _first_reason(error: ValidationError) -> str:
    first = error.errors()[0]
    field = _field(first["loc"])
    if first["type"] == "missing":
        return f"{field} is missing"
    if not field:
        return first["msg"].removeprefix("Value error, ")
    message = _MUST.get(first["type"], first["msg"].replace("Input should be", "must be"))
    return f"{field}: {message}, got {first['input']!r}"[: len(field) + len(message) + 80]


def _field(location: Sequence[int | str]) -> str:
    """Return a field's name with turns counted from 1, as users do."""
    if len(location) > 1 and location[0] == "conversations" and isinstance(location[1], int):
        return " ".join((f"turn {location[1] + 1}", *map(str, location[2:])))
    return ".".join(str(part) for part in location)
