"""Documents that a user writes, such as recipes: found by name or path, checked with errors of one line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from llava_av.errors import UserError
from llava_av.parsing import MOST_BYTES, SyntaxProblemError, parsed_json, parsed_yaml

__all__ = ["Document", "json_object", "not_installed", "read_document", "validated"]

_Model = TypeVar("_Model", bound=BaseModel)
_LONGEST_VALUE = 120


@dataclass(frozen=True, kw_only=True)
class Document:
    """What was read, not checked yet."""

    content: Any
    """What YAML or JSON holds; a mapping if its author made no mistake."""
    where: str
    """What it is and where it came from, for the start of an error."""
    path: Path | None
    """Its file; None if it was given as JSON."""


def read_document(given: str, *, kind: str, folder: Path, error: type[UserError]) -> Document:
    """Reads a document, which may still lack or hold anything; see `validated`.

    Args:
        given: Path of a YAML file, name of one in `folder`, or JSON text that starts with a brace.
        kind: What such a document is called, as `recipe`.
        folder: Documents that have names.
        error: Class of errors.

    Raises:
        UserError: of class `error`: no such document, or YAML or JSON that does not parse or is larger than
            such a document can be.
    """
    if given.lstrip().startswith("{"):
        return _from_json(given, f"{kind} in JSON", error)
    path = Path(given) if Path(given).suffix else folder / f"{given}.yaml"
    where = f"{kind} {path}"
    try:
        content = parsed_yaml(_text(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        if not folder.is_dir():
            raise error(f"no {kind} {given!r}: {not_installed(folder)}, or give the path of a file") from None
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise error(f"no {kind} {given!r}; give the path of a YAML file or one of: {known}") from None
    except OSError as problem:
        raise error(f"{where}: cannot be read: {problem.strerror}") from None
    except (SyntaxProblemError, UnicodeDecodeError) as problem:
        raise error(f"{where}: not valid YAML: {problem}") from None
    except ValueError:  # a null byte
        raise error(f"no {kind} {given!r}: no file can have that name") from None
    return Document(content=content, where=where, path=path)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise SyntaxProblemError(f"more than {MOST_BYTES} bytes; name a file that someone wrote by hand")
    return data.decode()


def _from_json(text: str, where: str, error: type[UserError]) -> Document:
    try:
        return Document(content=parsed_json(text), where=where, path=None)
    except SyntaxProblemError as problem:
        raise error(f"{where}: {problem}") from None


def not_installed(folder: Path) -> str:
    """What is said where a folder is not there that a checkout and the images have beside the code."""
    return f"this installation has no folder {folder}: work in a checkout or an image of llava-av"


def json_object(text: str, *, what: str) -> dict[str, Any]:
    """An object in JSON, such as fields to override.

    Args:
        text: The JSON.
        what: What it is, for the start of an error.

    Raises:
        UserError: it does not parse, or is no object.
    """
    try:
        content = parsed_json(text)
    except SyntaxProblemError as problem:
        raise UserError(f'{what} is not JSON ({problem}); give such as {{"field": 1}}') from None
    if not isinstance(content, dict):
        raise UserError(f'{what} is no JSON object but {text[:60]!r}; give such as {{"field": 1}}')
    return content


def validated(model: type[_Model], content: Any, *, where: str, error: type[UserError]) -> _Model:
    """The content as `model`.

    Args:
        model: What it has to be.
        content: As `Document.content`.
        where: As `Document.where`.
        error: Class of the error.

    Raises:
        UserError: of class `error`: a field is missing, unknown or holds what is not allowed; the first one.
    """
    try:
        return model.model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        value = "" if first["type"] == "missing" else f", got {first['input']!r}"[:_LONGEST_VALUE]
        raise error(f"{where}: {field}: {first['msg']}{value}") from None
