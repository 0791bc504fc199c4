"""Loader of YAML with limits on depth and number of values, which refuses duplicate keys (see `bounded`)."""

from typing import Any

import yaml

from llava_av.parsing.bounded import MAX_DEPTH, TOO_DEEP

__all__ = ["load_yaml"]

_MAX_VALUES = 10_000
_CHARACTERS_PER_VALUE = 32
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# What PyYAML's constructors raise for a scalar that does not fit its tag, such as the date 2026-13-01.
_MISFIT_ERRORS = (ValueError, LookupError, AttributeError, TypeError, OverflowError)


def load_yaml(text: str) -> Any:
    """Load a YAML document.

    Raises:
        ValueError: It is invalid or exceeds a limit; one line that says where and why.
        RecursionError: It is nested too deeply.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except _MISFIT_ERRORS as error:
        raise ValueError(f"a value does not fit its type: {error}") from None


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
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=TOO_DEEP, problem_mark=mark)
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
