"""Completeness of a record, which runs on a cluster require."""

from pathlib import Path
from typing import Literal

from llava_av.experiments.changes import changes_between, current_line
from llava_av.experiments.records import (
    ExperimentError,
    ExperimentRecord,
    find_parent,
    load_record,
    read_record,
)
from llava_av.experiments.template import TEMPLATE_WORDS
from llava_av.recipe import RecipeError, load_recipe
from llava_av.registry.expectations import ANY_FAMILY, misspelt
from llava_av.vocabulary import QuestionFamily

__all__ = ["RecordNeeds", "computed_changes", "problems", "require_record"]

RecordNeeds = Literal["nothing", "parts", "everything"]
"""Parts that an experiment record must have: none, all sections, or everything, as on a cluster."""


def problems(record: ExperimentRecord, folder: Path) -> tuple[str, ...]:
    """Return all that is missing, still the template's text, or outdated; empty if the record is complete.

    Args:
        record: Record to check.
        folder: Folder of the record.
    """
    found = list(record.missing_parts())
    sections = {"Hypothesis": "hypothesis", "Rationale": "rationale", "Next steps": "next_steps"}
    found += [
        f"the section '## {heading}' still has the template's text"
        for heading, field in sections.items()
        if getattr(record, field) == TEMPLATE_WORDS[field]
    ]
    found += _unknown_names(record)
    if record.recipe is None:
        found.append("recipe: name the recipe that its runs train")
        return tuple(found)
    try:
        load_recipe(record.recipe)
        changes = computed_changes(record, folder)
    except (ExperimentError, RecipeError) as error:
        return (*found, str(error))
    written = [current_line(line.removeprefix("- ")) for line in record.changes if line.startswith("- ")]
    # Sorted: names of an earlier version have another order.
    if record.parent is not None and sorted(written) != sorted(changes):
        found.append(
            "the section '## Changes' does not match the recipes; write it with "
            f"`llava-av experiment check {record.id} --write`"
        )
    return tuple(found)


def _unknown_names(record: ExperimentRecord) -> list[str]:
    """Return a phrase for each family that the demonstration lacks and each misspelt task name."""
    found = []
    for number, expectation in enumerate(record.expected):
        where, (_, _, family, *_) = f"expected.{number}", expectation.metric.split(".")
        known = {*QuestionFamily, ANY_FAMILY}
        if expectation.task is None and record.dataset == "demo" and family not in known:
            found.append(
                f"{where}: {expectation.metric}: the family {family!r} is not one of "
                f"{', '.join(QuestionFamily)}: name the dataset that has it under dataset:"
            )
        if expectation.task is not None:
            from llava_av.evaluation.tasks import task_names

            meant = misspelt(expectation.task, task_names())
            if meant:
                found.append(
                    f"{where}: the task {expectation.task!r} is none of {', '.join(task_names())}; "
                    f"did you mean {meant}?"
                )
    return found


def require_record(experiment: str, needs: RecordNeeds) -> tuple[Path, ExperimentRecord, tuple[str, ...]]:
    """Return the path of an experiment record, the record, and what it lacks.

    Args:
        experiment: ID of an experiment record, or its path.
        needs: Parts that it must have.

    Raises:
        ExperimentError: The record does not exist, has an invalid part such as an unknown metric, or lacks a
            required part.
    """
    path, record = load_record(experiment, draft=needs == "nothing")
    lacks = problems(record, path.parent)
    if lacks and needs == "everything":
        raise ExperimentError(
            f"experiment record {path} is incomplete: {'; '.join(lacks)}. Complete it, or continue with "
            "--allow-incomplete-record, which marks the run"
        )
    return path, record, lacks


def computed_changes(record: ExperimentRecord, folder: Path) -> tuple[str, ...]:
    """Return the differences from the parent, a line each; none without a parent.

    Raises:
        ExperimentError: The parent is missing, or the parent or the record names no recipe.
        RecipeError: A recipe cannot be read.
    """
    if record.parent is None:
        return ()
    path = find_parent(record.parent, folder)
    if path is None:
        raise ExperimentError(
            f"experiment record {folder / record.id}.md: parent: there is no record {record.parent!r}"
        )
    parent = read_record(path, draft=True)
    return tuple(change.line() for change in changes_between(_trained(parent), _trained(record)))


def _trained(record: ExperimentRecord) -> tuple[dict[str, object], str]:
    if record.recipe is None:
        raise ExperimentError(f"experiment record {record.id}: recipe: name the recipe that its runs train")
    return load_recipe(record.recipe).model_dump(mode="json"), record.dataset
