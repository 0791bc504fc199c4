"""Base class of a recipe's sections: frozen, without unknown fields, and with finite numbers."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, model_validator

from llava_av.frozen import FrozenModel
from llava_av.recipe.renaming import current_section

__all__ = ["LONGEST_S", "MOST_STEPS", "SHORTEST_S", "Options", "Section"]

MOST_STEPS = 99_999_999
"""Maximum number of steps: names of checkpoints have eight digits for the step."""
SHORTEST_S, LONGEST_S = 0.01, 7 * 24 * 3600.0
"""Bounds of durations, in seconds."""


def _finite(value: Any, path: str = "") -> Any:
    """Require that no number in nested options is infinite or NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path.removeprefix('.')}={value} is not a finite number")
    if isinstance(value, dict | list):
        for name, one in value.items() if isinstance(value, dict) else enumerate(value):
            _finite(one, f"{path}.{name}")
    return value


Options = Annotated[dict[str, object], AfterValidator(_finite)]
"""Options by name, for a part of the model."""


class Section(FrozenModel):
    """A part of a recipe, which also accepts the names that its fields had in an earlier version."""

    # The reference of the recipe shows the strings below the fields.
    model_config = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)

    section: ClassVar[str] = ""
    """Name of the recipe's field that holds the section; empty for deeper sections and for the recipe
    itself."""

    @model_validator(mode="before")
    @classmethod
    def _accept(cls, content: Any) -> Any:
        """Rename fields with an earlier name, and reject true and false where a number is expected."""
        if not isinstance(content, Mapping):
            return content
        found = current_section(cls.section, content) if cls.section else content
        for name, value in found.items():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and field.annotation is not bool:
                raise ValueError(f"{name}={str(value).lower()} must not be true or false")
        return found
