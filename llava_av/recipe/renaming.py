"""Table of the fields and values that have been renamed, and conversion between both names.

Documents with earlier names are still accepted: YAML recipes, JSON text, overrides by dotted path, and
objects that earlier versions wrote to S3. One document must not give a field under both names. Text that a
user can correct causes one warning for each earlier name; objects in S3 cause none.

Recipe digests and run IDs are computed from the field names of the first version (`first_names`), without
later fields that have their `ADDED_FIELDS` value, so that a recipe keeps its digest. Therefore rows of the
tables must stay even when the earlier names are no longer accepted.
"""

import functools
import logging
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from llava_av.recipe.errors import RecipeError
from llava_av.recipe.parts import current_parts, first_parts
from llava_av.vocabulary import EARLIER_OVER_LIMITS

__all__ = [
    "ADDED_FIELDS",
    "RENAMED_FIELDS",
    "RENAMED_VALUES",
    "current_names",
    "current_overrides",
    "current_section",
    "current_value",
    "first_names",
    "warn_of_earlier_names",
]

_LOG = logging.getLogger(__name__)

RENAMED_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "model.train": "model.trainable_parts",
        "optimizer.final_learning_rate_share": "optimizer.min_lr_ratio",
        "optimizer.decay_share": "optimizer.decay_ratio",
        "training.samples_per_step": "training.global_batch_size",
        "training.packing_tokens": "training.pack_length",
        "training.first_kinds": "training.warmup_kinds",
        "training.first_steps": "training.warmup_kind_steps",
        "training.processes": "training.num_processes",
        "training.checkpoint_every_steps": "training.checkpoint_interval",
        "training.keep_checkpoints": "training.keep_latest_checkpoints",
        "evaluation.processes": "evaluation.num_processes",
    }
)
"""Dotted path of each renamed field: the earlier one to the current one."""
RENAMED_VALUES: Mapping[str, Mapping[str, str]] = MappingProxyType({"model.over_limit": EARLIER_OVER_LIMITS})
"""Renamed values by current path: the earlier one to the current one."""
ADDED_FIELDS: Mapping[str, Any] = MappingProxyType(
    {
        "registered_model": None,
        "model.adapter": None,
        "training.epochs": None,
        "training.precision": "fp32",
        "training.offload_optimizer": False,
        "training.activation_checkpointing": [],
        "training.micro_batch_tokens": None,
        "training.max_non_finite_steps": 1,
        "optimizer.parts": {},
        "training.validation_interval": None,
        "training.validation_samples": 256,
        "training.result_checkpoint": "last",
        "training.early_stopping_patience": None,
        "data.mix": {},
        "stages": [],
    }
)
"""Fields that the first version lacked, with the value that corresponds to its behaviour."""
_FIRST_PARTS = "model.train"
_FIRST_FIELDS = {current: earlier for earlier, current in RENAMED_FIELDS.items()}
_FIRST_VALUES = {
    path: {current: earlier for earlier, current in values.items()} for path, values in RENAMED_VALUES.items()
}


def current_section(section: str, content: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a section such as `training` under their current names.

    Raises:
        ValueError: A field has both its earlier and its current name.
    """
    prefix = f"{section}."
    found = _current({f"{prefix}{name}": value for name, value in content.items()})
    return {path.removeprefix(prefix): value for path, value in found.items()}


def current_names(recipe: Mapping[str, object]) -> dict[str, object]:
    """Return a recipe as JSON under the current names; without earlier names it is unchanged.

    Raises:
        ValueError: A field has both its earlier and its current name.
    """
    return {
        name: current_section(name, value) if isinstance(value, Mapping) else value
        for name, value in recipe.items()
    }


def current_overrides(overrides: Mapping[str, object]) -> dict[str, object]:
    """Return a user's overrides by current path; warn of each earlier name.

    Raises:
        RecipeError: A field has both its earlier and its current name.
    """
    warn_of_earlier_names(overrides)
    try:
        return _current(overrides)
    except ValueError as error:
        raise RecipeError(f"overrides: {error}") from None


def first_names(recipe: Mapping[str, object]) -> dict[str, object]:
    """Return a recipe as JSON, with current names, as the first version would have written it."""
    return {
        name: _first_section(name, value) if isinstance(value, Mapping) else value
        for name, value in recipe.items()
        if name not in ADDED_FIELDS or value != ADDED_FIELDS[name]
    }


def current_value(path: str, value: Any) -> Any:
    """Return the current name of a value of the field with this current path."""
    return _renamed(value, RENAMED_VALUES.get(path, {}))


def warn_of_earlier_names(document: Mapping[str, object]) -> None:
    """Warn of each earlier name in a recipe or in overrides, once in a process."""
    for change in _changes(document):
        _warn_once(change)


def _current(fields: Mapping[str, object]) -> dict[str, object]:
    """Return fields by current path, with current values."""
    found: dict[str, object] = {}
    for path, value in fields.items():
        current = RENAMED_FIELDS.get(path, path)
        if current != path and current in fields:
            raise ValueError(f"{path} and {current} are the same field; keep {current}")
        found[current] = current_parts(value) if path == _FIRST_PARTS else current_value(current, value)
    return found


def _first_section(section: str, content: Mapping[str, object]) -> dict[str, object]:
    found = {}
    for name, value in content.items():
        path = f"{section}.{name}"
        if path in ADDED_FIELDS and value == ADDED_FIELDS[path]:
            continue
        first = _FIRST_FIELDS.get(path, path).removeprefix(f"{section}.")
        is_parts = f"{section}.{first}" == _FIRST_PARTS
        found[first] = first_parts(value) if is_parts else _renamed(value, _FIRST_VALUES.get(path, {}))
    return found


def _renamed(value: Any, values: Mapping[str, str]) -> Any:
    return values.get(value, value) if isinstance(value, str) else value


def _changes(document: Mapping[str, object]) -> Iterator[str]:
    """Yield each change that a user has to make in a document."""
    for path, value in document.items():
        current = RENAMED_FIELDS.get(path, path)
        if path == _FIRST_PARTS:
            yield f"{path} is now called {current}, write {current}: {_flow(current_parts(value))}"
        elif current != path:
            yield f"{path} is now called {current}"
        if current_value(current, value) is not value:
            yield f"{current}={value} is now called {current}={current_value(current, value)}"
        if isinstance(value, Mapping):
            yield from _changes({f"{path}.{name}": inner for name, inner in value.items()})


def _flow(value: Any) -> str:
    """Return a list of names as YAML on one line."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


@functools.cache
def _warn_once(change: str) -> None:
    _LOG.warning("recipe: %s; rename it: the next version will refuse the earlier name", change)
