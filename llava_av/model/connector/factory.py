"""Connectors by name: a class, arguments that follow from the model, and options that a config names."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Part = TypeVar("Part")


@dataclass(frozen=True)
class ConnectorKinds(Generic[Part]):
    """Classes of one role by their names in recipes and configs."""

    role: str
    """Name of the role in error messages, such as `resampler`."""
    classes: Mapping[str, type[Part]]

    def build(self, kind: str, options: Mapping[str, object] | None = None, **given: int) -> Part:
        """Build an instance of the class with this name.

        Args:
            kind: Key of `classes`.
            options: Arguments that the config names; the class must take each of them.
            given: Arguments that follow from the model; those that the class does not take are left out.

        Raises:
            ValueError: The name or an option is unknown, a required option is missing, or a value is not
                allowed; names it.
        """
        options = options or {}
        if kind not in self.classes:
            raise ValueError(f"unknown {self.role} {kind!r}: one of {', '.join(self.classes)}")
        parameters = {
            name: parameter
            for name, parameter in inspect.signature(self.classes[kind]).parameters.items()
            if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        }
        known = [name for name in parameters if name not in given]
        for name in options:
            if name not in known:
                taken = ", ".join(known) or "none"
                raise ValueError(f"{self.role} {kind} has no option {name!r}: it takes {taken}")
        for name in known:
            if parameters[name].default is inspect.Parameter.empty and name not in options:
                raise ValueError(f"{self.role} {kind} needs the option {name!r}")
        return self.classes[kind](**{name: given[name] for name in parameters if name in given}, **options)
