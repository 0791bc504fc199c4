"""YAML and JSON that users write, within bounds: size, depth, number of values, and no duplicate keys.

A few lines of YAML can stand for billions of values by aliases, and deep brackets exhaust Python's stack.
Every document that a user writes is parsed here, so that such a text costs no more than reading it.
"""

import json
from collections.abc import Iterable
from typing import Any

import yaml

__all__ = ["MOST_BYTES", "SyntaxProblemError", "parsed_json", "parsed_yaml", "unique_keys"]

MOST_BYTES = 128 * 1024
"""Maximum length of a document."""
_MOST_VALUES = 10_000
_DEEPEST = 50
_CHARACTERS_OF_A_VALUE = 32
_MERGE = "tag:yaml.org,2002:merge"
# What PyYAML's constructors raise about a scalar that its own tag does not fit, such as the date 2026-13-01.
_MISFITS = (ValueError, LookupError, AttributeError, TypeError, OverflowError)


class SyntaxProblemError(ValueError):
    """Text that is no YAML or JSON, or is out of bounds; says where and why, in one line."""


def parsed_yaml(text: str) -> Any:
    """Return what one YAML document holds.

    Raises:
        SyntaxProblemError: it does not parse, has a key twice in one mapping, or is out of bounds.
    """
    _require_short(text)
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SyntaxProblemError(" ".join(str(error).split())) from None
    except RecursionError:
        raise SyntaxProblemError(_too_deep()) from None
    except _MISFITS as error:
        raise SyntaxProblemError(f"a value does not fit its type: {error}") from None


def parsed_json(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        SyntaxProblemError: it does not parse, has a key twice in one object, or is out of bounds.
    """
    _require_short(text)
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except RecursionError:
        raise SyntaxProblemError(_too_deep()) from None
    except ValueError as error:
        raise SyntaxProblemError(str(error)) from None
    level, depth = [value], 0
    while level:
        level = [child for one in level for child in _children(one)]
        depth += 1
        if depth > _DEEPEST:
            raise SyntaxProblemError(_too_deep())
    return value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which counts values as often as their aliases repeat them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node as PyYAML does; an alias is the node that it names."""
        alias = self.check_event(yaml.AliasEvent)
        before = self._values
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem=_too_deep(), problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        # An alias inside the node that it names has no size yet, and would have no end.
        self._values += self._sizes.get(id(node), _MOST_VALUES + 1) if alias else _size(node)
        if self._values > _MOST_VALUES:
            problem = f"more than {_MOST_VALUES} values, each alias (*name) counted as all that it repeats"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        if not alias:
            self._sizes[id(node)] = self._values - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping whose keys differ."""
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


def _size(node: yaml.Node | None) -> int:
    """Return as how many values a node counts by itself: a long text counts as several."""
    return 1 + (len(node.value) // _CHARACTERS_OF_A_VALUE if isinstance(node, yaml.ScalarNode) else 0)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs, as `object_pairs_hook` of `json.loads`.

    Raises:
        ValueError: It has a key twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"the key {twice!r} appears twice; keep one")
    return found


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _require_short(text: str) -> None:
    if len(text) > MOST_BYTES:
        raise SyntaxProblemError(f"{len(text)} characters, more than {MOST_BYTES}")


def _too_deep() -> str:
    return f"more than {_DEEPEST} levels of lists and mappings"
