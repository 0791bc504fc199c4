"""YAML and JSON parsers with limits on size, depth and number of values, which refuse duplicate keys.

With aliases, a few lines of YAML expand to billions of values, and deep brackets exhaust Python's stack.
Every document that a user writes is parsed here, so that no text costs more than reading it.
"""

import json
from collections.abc import Iterable
from typing import Any

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "TOO_DEEP",
    "SyntaxProblemError",
    "parse_json",
    "parse_yaml",
    "unique_object",
]

MAX_BYTES = 128 * 1024
"""Maximum length of a document."""
MAX_DEPTH = 50
"""Maximum number of nested lists and mappings."""
TOO_DEEP = f"more than {MAX_DEPTH} levels of lists and mappings"


class SyntaxProblemError(ValueError):
    """A text that does not parse or exceeds a limit; one line that says where and why."""


def parse_yaml(text: str) -> Any:
    """Parse a YAML document.

    Raises:
        SyntaxProblemError: It does not parse, has a key twice in one mapping, or exceeds a limit.
    """
    # PyYAML takes a hundredth of a second to load, and most commands parse no YAML.
    from llava_av.parsing.yaml_loader import load_yaml

    _require_short(text)
    try:
        return load_yaml(text)
    except RecursionError:
        raise SyntaxProblemError(TOO_DEEP) from None
    except ValueError as error:
        raise SyntaxProblemError(str(error)) from None


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        SyntaxProblemError: It does not parse, has a key twice in one object, or exceeds a limit.
    """
    _require_short(text)
    try:
        value = json.loads(text, object_pairs_hook=unique_object)
    except RecursionError:
        raise SyntaxProblemError(TOO_DEEP) from None
    except ValueError as error:
        raise SyntaxProblemError(str(error)) from None
    level, depth = [value], 0
    while level:
        level = [child for one in level for child in _children(one)]
        depth += 1
        if depth > MAX_DEPTH:
            raise SyntaxProblemError(TOO_DEEP)
    return value


def unique_object(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    """Build an object from its pairs; an `object_pairs_hook` for `json.loads`.

    Raises:
        ValueError: A key appears twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"the key {twice!r} appears twice; keep one")
    return found


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _require_short(text: str) -> None:
    if len(text) > MAX_BYTES:
        raise SyntaxProblemError(f"{len(text)} characters, more than {MAX_BYTES}")
