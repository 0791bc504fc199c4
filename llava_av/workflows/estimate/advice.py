"""Smallest change with which a recipe that does not fit a GPU would fit."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from llava_av.errors import UserError
from llava_av.recipe import Recipe
from llava_av.workflows.estimate.estimating import Estimate, Estimator

__all__ = ["GIB", "DoesNotFitError", "require_fit"]

GIB = 2**30
_MOST_GPUS = 1024


class DoesNotFitError(UserError):
    """A recipe that needs more memory than a GPU has."""


def require_fit(
    estimator: Estimator, recipe: Recipe, estimates: Mapping[str, Estimate], limit_gib: float
) -> None:
    """Require that all stages of a recipe fit the memory of a GPU.

    Args:
        estimator: Computes the estimates of changed recipes.
        recipe: The recipe.
        estimates: Estimate of each of its stages, as of `Estimator.estimate_stages`.
        limit_gib: Memory of a GPU in GiB.

    Raises:
        DoesNotFitError: It does not fit; names the first of these changes with which it does: bfloat16,
            activation checkpointing, ZeRO 3, all of these, smaller micro-batches, more GPUs, fewer frames,
            training of the connectors alone.
    """
    largest = max(estimates, key=lambda name: estimates[name].memory.peak)
    needed = estimates[largest].memory.peak
    if needed <= limit_gib * GIB:
        return
    where = f"recipe {recipe.name}" + (f", stage {largest}" if largest else "")
    problem = f"{where}: {_gib(needed)} GiB per GPU do not fit --gpu-memory {limit_gib:g}"
    for changes in _changes(recipe, estimates[largest].tokens_per_sample):
        changed = estimator.estimate_stages(recipe.with_overrides(changes)).values()
        peak = max(one.memory.peak for one in changed)
        if all(one.model.trained for one in changed) and peak <= limit_gib * GIB:
            raise DoesNotFitError(f"{problem}; {_gib(peak)} GiB do: {_options(recipe, changes)}")
    raise DoesNotFitError(
        f"{problem}, nor do more GPUs with bf16, activation checkpointing, full sharding and one sample "
        "each: take a smaller model, or lower media.max_frames and media.max_audio_s"
    )


def _changes(recipe: Recipe, tokens: int) -> Iterator[dict[str, Any]]:
    """Yield overrides in the order in which they are advised, the least intrusive first.

    Args:
        recipe: The recipe.
        tokens: Tokens of its longest sample.
    """
    gpus, samples = recipe.training.num_processes, recipe.training.global_batch_size
    short: dict[str, Any] = {"training.precision": "bf16"}
    again, towers = (
        _recomputing(recipe, "language"),
        _recomputing(recipe, "vision_tower", "audio_tower", "language"),
    )
    # The torch engine shards everything anyway.
    sharded: dict[str, Any] = {} if recipe.training.engine == "torch" else {"training.zero_stage": 3}
    every = short | towers | sharded
    yield from (short, again, sharded, short | again, short | sharded, short | again | sharded, every)
    row = recipe.training.pack_length or tokens
    yield from (every | {"training.micro_batch_tokens": count * row} for count in _halves(samples // gpus))
    if samples > gpus:
        every |= {"training.micro_batch_tokens": row}
    more = [
        every
        | {"training.num_processes": count}
        | ({"training.global_batch_size": count} if samples < count else {})
        for count in (gpus << power for power in range(1, _MOST_GPUS.bit_length()))
        if count <= _MOST_GPUS
    ]
    yield from more
    yield from (every | {"media.max_frames": count} for count in _halves(recipe.media.max_frames)[:3])
    connectors = {"model.trainable_parts": ["vision_connector", "audio_connector"]}
    yield from (connectors | change for change in (every, *more))


def _recomputing(recipe: Recipe, *parts: str) -> dict[str, Any]:
    """Return the override that computes activations of these parts again, beside those of the recipe."""
    found = recipe.training.activation_checkpointing
    return {"training.activation_checkpointing": [*found, *(part for part in parts if part not in found)]}


def _halves(count: int) -> list[int]:
    """Return half of a count, a quarter, and so on, down to 1."""
    return [count >> power for power in range(1, count.bit_length())]


def _options(recipe: Recipe, changes: dict[str, Any]) -> str:
    """Return the options of the command that make the changes."""
    before = recipe.model_dump(mode="json")
    shown: list[str] = []
    for path, value in changes.items():
        section, name = path.split(".")
        if path == "training.num_processes":
            shown.insert(0, f"--gpus {value}")
        elif before[section][name] != value:
            text = f"[{', '.join(value)}]" if isinstance(value, list) else value
            shown.append(f"--set {shlex.quote(f'{path}={text}')}")
    return " ".join(shown)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
