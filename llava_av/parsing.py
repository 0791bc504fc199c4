"""YAML and JSON parsers with limits on size, depth and number of values, which refuse duplicate keys.

With aliases, a few lines of YAML expand to billions of values, and deep brackets exhaust Python's stack.
Every document that a user writes is parsed here, so that no text costs more than reading it.
"""

import json
from collections.abc import Iterable
from typing import Any

import yaml

__all__ = ["MAX_BYTES", "SyntaxProblemError", "parse_json", "parse_yaml", "unique_object"]

MAX_BYTES = 128 * 1024
"""Maximum length of a document."""
_MAX_VALUES = 10_000
_MAX_DEPTH = 50
_CHARACTERS_PER_VALUE = 32
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# What PyYAML's constructors raise for a scalar that does not fit its tag, such as the date 2026-13-01.
_MISFIT_ERRORS = (ValueError, LookupError, AttributeError, TypeError, OverflowError)


class SyntaxProblemError(ValueError):
    """A text that does not parse or exceeds a limit; one line that says where and why."""


def parse_yaml(text: str) -> Any:
    """Parse a YAML document.

    Raises:
        SyntaxProblemError: It does not parse, has a key twice in one mapping, or exceeds a limit.
    """
    _require_short(text)
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SyntaxProblemError(" ".join(str(error).split())) from None
    except RecursionError:
        raise SyntaxProblemError(_too_deep()) from None
    except _MISFIT_ERRORS as error:
        raise SyntaxProblemError(f"a value does not fit its type: {error}") from None


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        SyntaxProblemError: It does not parse, has a key twice in one object, or exceeds a limit.
    """
    _require_short(text)
    try:
        value = json.loads(text, object_pairs_hook=unique_object)
    except RecursionError:
        raise SyntaxProblemError(_too_deep()) from None
    except ValueError as error:
        raise SyntaxProblemError(str(error)) from None
    level, depth = [value], 0
    while level:
        level = [child for one in level for child in _children(one)]
        depth += 1
        if depth > _MAX_DEPTH:
            raise SyntaxProblemError(_too_deep())
    return value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits; it counts values as often as their aliases repeat them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node as PyYAML does; an alias yields the node that it names."""
        alias = self.check_event(yaml.AliasEvent)
        before = self._values
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=_too_deep(), problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        # An alias inside the node that it names has no size yet: it would expand forever.
        self._values += self._sizes.get(id(node), _MAX_VALUES + 1) if alias else _size(node)
        if self._values > _MAX_VALUES:
            problem = f"more than {_MAX_VALUES} values, counting each alias (*name) as all that it repeats"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        if not alias:
            self._sizes[id(node)] = self._values - before
            _refuse_base_60(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping and refuse duplicate keys."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} appears twice; keep one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


def _refuse_base_60(node: yaml.Node | None) -> None:
    """Refuse numbers such as 1:30, which YAML 1.1 reads in base 60, as 90."""
    if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and ":" in node.value:
        problem = f"{node.value} is a number in base 60 in YAML 1.1: quote it for text, or write its value"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _size(node: yaml.Node | None) -> int:
    """Return the number of values that a node counts as; a long text counts as several."""
    return 1 + (len(node.value) // _CHARACTERS_PER_VALUE if isinstance(node, yaml.ScalarNode) else 0)


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


def _too_deep() -> str:
    return f"more than {_MAX_DEPTH} levels of lists and mappings"
