"""Building a part by its name from what the model gives and what a config says."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["built"]

Part = TypeVar("Part")


def built(
    parts: Mapping[str, type[Part]], role: str, kind: str, given: dict[str, Any], options: dict[str, Any]
) -> Part:
    """An instance of the part of that name.

    Args:
        parts: classes by name.
        role: what an error calls them, such as `resampler`.
        kind: the name.
        given: arguments that follow from the model; those that the class does not take are left out.
        options: arguments that the config names; each has to be one that the class takes.

    Raises:
        ValueError: an unknown name, an option that the class does not take, or one that it needs and does
            not get, by name.
    """
    if kind not in parts:
        raise ValueError(f"unknown {role} {kind!r}: one of {', '.join(parts)}")
    taken = {
        name: one
        for name, one in inspect.signature(parts[kind]).parameters.items()
        if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    choices = [name for name in taken if name not in given]
    for name in options:
        if name not in choices:
            raise ValueError(f"{role} {kind} has no option {name!r}: it takes {', '.join(choices) or 'none'}")
    for name in choices:
        if taken[name].default is inspect.Parameter.empty and name not in options:
            raise ValueError(f"{role} {kind} needs the option {name!r}")
    return parts[kind](**{name: given[name] for name in taken if name in given}, **options)
