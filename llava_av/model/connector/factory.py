"""Connectors by name: a class, arguments that follow from the model, and options that a config names."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

Part = TypeVar("Part")


def build_by_name(
    classes: Mapping[str, type[Part]],
    role: str,
    name: str,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Part:
    """Build an instance of the class with this name.

    Args:
        classes: Classes by name.
        role: Name of their role in error messages, such as `resampler`.
        name: Key of `classes`.
        given: Arguments that follow from the model; those that the class does not take are left out.
        options: Arguments that the config names; the class must take each of them.

    Raises:
        ValueError: The name or an option is unknown, or a required option is missing; names it.
    """
    if name not in classes:
        raise ValueError(f"unknown {role} {name!r}: one of {', '.join(classes)}")
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(classes[name]).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    known = [key for key in parameters if key not in given]
    for key in options:
        if key not in known:
            raise ValueError(f"{role} {name} has no option {key!r}: it takes {', '.join(known) or 'none'}")
    for key in known:
        if parameters[key].default is inspect.Parameter.empty and key not in options:
            raise ValueError(f"{role} {name} needs the option {key!r}")
    return classes[name](**{key: given[key] for key in parameters if key in given}, **options)
