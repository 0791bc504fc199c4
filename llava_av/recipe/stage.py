"""Section `stages`: parts of a training that follow each other, each with its own data and schedule."""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from llava_av.recipe.data import MixedDataset
from llava_av.recipe.errors import RecipeError
from llava_av.recipe.optimizer import OptimizerRecipe
from llava_av.recipe.parts import PartName, parts_in_order
from llava_av.recipe.section import MOST_STEPS, Section

__all__ = ["Stage", "StageSchedule", "StageSpan", "stage_content", "steps_of_stages"]

_OF_TRAINING = ("steps", "global_batch_size", "warmup_kinds", "warmup_kind_steps")


def _in_order(parts: tuple[PartName, ...] | None) -> tuple[PartName, ...] | None:
    return None if parts is None else tuple(parts_in_order(parts))


class Stage(Section):
    """List of stages, which train one after the other; an empty list is a training without stages.

    A stage starts from the model that the previous one has trained, with a new optimizer. Steps, learning
    rate and order of samples count from its start. Fields that are null are those of the whole recipe.
    """

    section: ClassVar[str] = "stages"

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=40)
    """Name, lower-case words joined by dashes: `--stage` and the overrides `stages.NAME.FIELD` use it."""
    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Optimizer steps; `training.steps` is their sum over all stages."""
    epochs: float | None = Field(default=None, gt=0, le=1_000_000)
    """Passes over the training samples of the stage, in place of `steps`, which opening a run computes."""
    trainable_parts: Annotated[tuple[PartName, ...] | None, AfterValidator(_in_order)] = None
    """Trained parts, as `model.trainable_parts`."""
    adapter: bool = True
    """Train `model.adapter`, if the recipe has one; only the last stage can."""
    optimizer: OptimizerRecipe | None = None
    """Fields of `optimizer` that are different in this stage."""
    mix: dict[str, MixedDataset] | None = None
    """Use of single datasets, as `data.mix`."""
    warmup_kinds: tuple[str, ...] | None = None
    """Kinds of sample that its first steps draw from alone, as `training.warmup_kinds`."""
    warmup_kind_steps: int | None = Field(default=None, ge=0, le=MOST_STEPS)
    """Optimizer steps that draw from `warmup_kinds`."""
    global_batch_size: int | None = Field(default=None, ge=1, le=10_000_000)
    """Samples of one optimizer step, as `training.global_batch_size`."""

    @model_validator(mode="after")
    def _has_steps_or_epochs(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"stage {self.name} has steps={self.steps} and epochs={self.epochs}: set one")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out fields that the stage does not set, so that fields added later do not change digests."""
        fields = type(self).model_fields
        found = {name: value for name, value in handler(self).items() if value != fields[name].default}
        if self.optimizer is not None:
            found["optimizer"] = self.optimizer.model_dump(mode="json", exclude_unset=True)
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSpan:
    """Steps of a stage in a whole training."""

    index: int
    name: str
    """Empty for a training without stages."""
    first: int
    """First step."""
    steps: int
    """Planned number of steps."""

    @property
    def end(self) -> int:
        """Return the step after the last one, the first of the next stage."""
        return self.first + self.steps


@dataclasses.dataclass(frozen=True)
class StageSchedule:
    """Stages of a training in order; a training without stages has one without a name."""

    spans: tuple[StageSpan, ...]

    @classmethod
    def of(cls, stages: Sequence[Stage], steps: int) -> "StageSchedule":
        """Return the schedule of stages, or of a training without stages that has this number of steps.

        Stages with `epochs` have no steps until a run is opened.
        """
        spans: list[StageSpan] = []
        for index, stage in enumerate(stages):
            first = spans[-1].end if spans else 0
            spans.append(StageSpan(index=index, name=stage.name, first=first, steps=stage.steps or 0))
        return cls(tuple(spans) or (StageSpan(index=0, name="", first=0, steps=steps),))

    def at(self, step: int) -> tuple[StageSpan, int]:
        """Return the stage that takes a step, and the number of the step in that stage."""
        ends = [span.end for span in self.spans]
        span = self.spans[min(bisect.bisect_right(ends, step), len(ends) - 1)]
        return span, step - span.first

    def named(self, name: str) -> StageSpan:
        """Return the stage of this name.

        Raises:
            RecipeError: There is none; the message lists the names.
        """
        for span in self.spans:
            if span.name == name and name:
                return span
        known = ", ".join(span.name for span in self.spans if span.name)
        raise RecipeError(
            f"the recipe has no stage {name!r}: " + (f"use one of {known}" if known else "it has no stages")
        )


def stage_content(recipe: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """Return a recipe as JSON with the values of one stage, and without stages.

    Settings of `optimizer.parts` of the whole recipe are kept for the parts that the stage trains.

    Args:
        recipe: The whole recipe as JSON.
        stage: One of its stages.
    """
    own = stage.model_dump(mode="json")
    model = {**recipe["model"], **_chosen(own, ("trainable_parts",))}
    if not stage.adapter:
        model["adapter"] = None
    changed = own.get("optimizer", {})
    optimizer = {**recipe["optimizer"], **changed}
    if "parts" not in changed:
        adapted = (model.get("adapter") or {}).get("targets", {})
        trained = {*model["trainable_parts"], *adapted}
        optimizer["parts"] = {
            part: settings for part, settings in optimizer["parts"].items() if part in trained
        }
    return {
        **recipe,
        "model": model,
        "data": {**recipe["data"], **_chosen(own, ("mix",))},
        "optimizer": optimizer,
        "training": {**recipe["training"], **_chosen(own, _OF_TRAINING)},
        "stages": [],
    }


def steps_of_stages(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a recipe as JSON with the sum of its stages' steps in `training.steps`.

    A recipe without stages is returned as it is. Stages with `epochs` add nothing to the sum.

    Raises:
        ValueError: It gives another number in `training.steps`, or `training.epochs`.
    """
    stages, training = content.get("stages"), content.get("training")
    if not isinstance(stages, list | tuple) or not stages or not isinstance(training, Mapping):
        return content
    if training.get("epochs") is not None:
        raise ValueError(
            f"training.epochs={training['epochs']} must be null in a recipe with stages: set it to null, and "
            "epochs of the stages"
        )
    steps = sum(_number(stage, "steps") or 0 for stage in stages)
    # Of stages with epochs only, a placeholder until a run is opened.
    steps, given = steps or 1, training.get("steps")
    epochs = [stage for stage in stages if _number(stage, "steps") is None]
    if given is not None and given != steps and all(_number(stage, "epochs") for stage in epochs):
        known = "which their epochs determine" if epochs else str(steps)
        raise ValueError(
            f"training.steps={given} is not the sum of the stages' steps, {known}: remove training.steps, or "
            "change the steps of a stage"
        )
    return {**content, "training": {**training, "steps": steps}}


def _number(stage: Any, name: str) -> float | None:
    """Return a number of a stage, which may not be validated yet; None if it has none."""
    value: Any = stage.get(name) if isinstance(stage, Mapping) else getattr(stage, name, None)
    try:
        # Text with a number is valid, too.
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else number


def _chosen(own: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: own[name] for name in names if name in own}
