"""Documents that users write, such as recipes: found by name or path, and validated with one-line errors."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llava_av.errors import UserError
from llava_av.parsing import MAX_BYTES, SyntaxProblemError, parse_json, parse_yaml

__all__ = [
    "Document",
    "close_name",
    "field_names",
    "parse_json_object",
    "problem_text",
    "read_document",
    "validate",
]

_Model = TypeVar("_Model", bound=BaseModel)
_MAX_VALUE_CHARACTERS = 120
_MAX_NAME_CHARACTERS = 120
# A request to a server may have any number of problems, and the search for a close name is slow.
_MAX_PROBLEMS = 100
_CLOSE = 0.7
# Readers of YAML and JSON know neither tuples nor classes.
_MESSAGES = {
    "tuple_type": "Input should be a list",
    "dict_type": "Input should be a mapping",
    "model_type": "Input should be a mapping",
}


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document that was read but not validated yet."""

    content: Any
    """Parsed YAML or JSON; a mapping in a valid document."""
    where: str
    """Kind and origin of the document, for the start of an error message."""
    path: Path | None
    """Its file; None if it was given as JSON."""


def read_document(given: str, *, kind: str, folders: Sequence[Path], error: type[UserError]) -> Document:
    """Read a document without validating its content; see `validate`.

    Args:
        given: Path of a YAML file, name of one in `folders`, or JSON text that starts with a brace.
        kind: Kind of the document for messages, such as `recipe`.
        folders: Folders of the documents that have names; the first with the name counts.
        error: Class of errors to raise.

    Raises:
        UserError: Of class `error`: the document does not exist, does not parse, or exceeds a limit.
    """
    if given.lstrip().startswith("{"):
        return _from_json(given, f"{kind} in JSON", error)
    path = _path_of(given, folders)
    where = f"{kind} {path}"
    try:
        content = parse_yaml(_text(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        known = ", ".join(sorted({file.stem for folder in folders for file in folder.glob("*.yaml")}))
        raise error(f"no {kind} {given!r}; give the path of a YAML file or one of: {known}") from None
    except OSError as problem:
        raise error(f"{where}: cannot be read: {problem.strerror}") from None
    except (SyntaxProblemError, UnicodeDecodeError) as problem:
        raise error(f"{where}: not valid YAML: {problem}") from None
    except ValueError:  # a null byte in the name
        raise error(f"no {kind} {given!r}: not a valid file name") from None
    return Document(content=content, where=where, path=path)


def _path_of(given: str, folders: Sequence[Path]) -> Path:
    named = [folder / f"{given}.yaml" for folder in folders]
    # A name may have a dot, as in `onevision-0.5b`; `isfile` takes any text.
    existing = next((path for path in named if os.path.isfile(path)), None)
    is_name = not Path(given).suffix or ("/" not in given and existing is not None)
    return (existing or named[-1]) if is_name else Path(given)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SyntaxProblemError(f"more than {MAX_BYTES} bytes, which no such document needs")
    return data.decode()


def _from_json(text: str, where: str, error: type[UserError]) -> Document:
    try:
        return Document(content=parse_json(text), where=where, path=None)
    except SyntaxProblemError as problem:
        raise error(f"{where}: {problem}") from None


def parse_json_object(text: str, *, what: str) -> dict[str, object]:
    """Parse a JSON object, such as fields to override.

    Args:
        text: The JSON.
        what: Name of the object for messages.

    Raises:
        UserError: The text does not parse, or is not an object.
    """
    try:
        content = parse_json(text)
    except SyntaxProblemError as problem:
        raise UserError(f'{what} is not valid JSON ({problem}): give {{"field": 1}}') from None
    if not isinstance(content, dict):
        raise UserError(f'{what} must be a JSON object such as {{"field": 1}}, got {text[:60]!r}')
    return content


def validate(model: type[_Model], content: Any, *, where: str, error: type[UserError]) -> _Model:
    """Validate a document's content as a pydantic model.

    Args:
        model: The model.
        content: See `Document.content`.
        where: See `Document.where`.
        error: Class of errors to raise.

    Raises:
        UserError: Of class `error`: a field is missing, unknown or has a value that is not allowed; the
            message names the first such field.
    """
    try:
        return model.model_validate(content)
    except ValidationError as problem:
        raise error(f"{where}: {problem_text(model, problem)}") from None


def problem_text(model: type[BaseModel], problem: ValidationError) -> str:
    """Return a problem of a document in one line: its field, the reason and the value.

    A misspelt field comes before all other problems, since it may cause them, such as a missing field.

    Args:
        model: Model that rejected the document.
        problem: Its error.
    """
    problems = problem.errors()
    for one in problems[:_MAX_PROBLEMS]:
        field, colon, rest = str(one["loc"][-1] if one["loc"] else "").partition(":")
        if one["type"] == "extra_forbidden" and colon:
            return f"{_path(one)}: unknown field; YAML needs a space after the colon: {field}: {rest.strip()}"
        if one["type"] == "extra_forbidden" and (close := _close_field(model, one)):
            return f"{_path(one)}: unknown field; did you mean {close}?"
    first = problems[0]
    if first["type"] == "extra_forbidden":
        return f"{_path(first)}: unknown field"
    value = first["input"]
    # A whole section would hide the reason, which names the field.
    shown = first["type"] != "missing" and not isinstance(value, Mapping | BaseModel)
    given = f", got {value!r}"[:_MAX_VALUE_CHARACTERS] if shown else ""
    message = _MESSAGES.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{_path(first)}: {message}{given}"


def _path(problem: ErrorDetails) -> str:
    return ".".join(str(part)[:_MAX_NAME_CHARACTERS] for part in problem["loc"]) or "the file"


def _close_field(model: type[BaseModel], problem: ErrorDetails) -> str | None:
    *path, name = (str(part) for part in problem["loc"])
    return close_name(name[:_MAX_NAME_CHARACTERS], field_names(model, path))


def field_names(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    """Return the names of the fields of a section, or none if the path leads to no section.

    Args:
        model: Model of the document.
        path: Names of the fields that lead to the section, with keys and indices of mappings and lists.
    """
    section: type[BaseModel] | None = model
    for name in path:
        if section is not None and name in section.model_fields:
            inner = list(_models_in(section.model_fields[name].annotation))
            section = inner[0] if len(inner) == 1 else None
    return list(section.model_fields) if section is not None else []


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def close_name(name: str, known: Iterable[str], *, cutoff: float = _CLOSE) -> str | None:
    """Return the known name that a misspelt name most likely means, if any is close."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)
