"""Base class of all pydantic models in this repository."""

from pydantic import BaseModel, ConfigDict

__all__ = ["FrozenModel"]


class FrozenModel(BaseModel):
    """Immutable data that refuses unknown fields; the string below a field documents it.

    A subclass changes single settings, for example `model_config = ConfigDict(extra="ignore")` for data that
    other versions write. Its validator is built when it is first used, because a command imports more models
    than it uses. Versions of pydantic before 2.14.3 may build it wrongly in several threads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
