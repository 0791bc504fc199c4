"""Tasks: their data format, their prompt and the rule that parses replies, under one version."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from llava_av.documents import read_document, validate
from llava_av.errors import UserError
from llava_av.evaluation.job_request import HELD_OUT
from llava_av.evaluation.reply_parsing import RULES
from llava_av.frozen import FrozenModel
from llava_av.runs import TaskNote

__all__ = ["Task", "TaskError", "load_task", "task_names"]

_FOLDER = Path(__file__).parent


class TaskError(UserError):
    """A task that is unknown or invalid, or data that do not match its format."""


class Task(FrozenModel):
    """Content of the file of one task."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)
    """Name in lower case, under which results are stored."""
    version: int = Field(ge=1)
    """Increased with every change of the questions; results of different versions are never compared."""
    about: str
    """Description of the questions, with the publication."""
    reader: Literal["daily_omni", "avqa", "music_avqa", "clotho_aqa", "worldsense", "questions"]
    """Format of the data."""
    files: str
    """Description of the files in the data folder."""
    rule: Literal["choice", "letter", "open"]
    """Rule that parses replies."""
    prompt: str
    """Template with `{question}`, `{choices}` as lettered lines, and placeholders such as `<video>`."""
    max_new_tokens: int = Field(default=16, ge=1)
    """Maximum number of tokens of a reply."""

    @model_validator(mode="after")
    def _prompt_asks(self) -> Self:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")
        if self.rule == "letter" and "{choices}" not in self.prompt:
            raise ValueError("prompt must contain {choices}, because rule letter refers to lettered choices")
        return self

    def note(self) -> TaskNote:
        """Return the part of the task that results record."""
        rule = RULES[self.rule]
        return TaskNote(
            name=self.name,
            version=self.version,
            rule=rule.name,
            rule_version=rule.version,
            prompt=self.prompt,
        )


def task_names() -> list[str]:
    """Return the names of the built-in tasks."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_task(given: str) -> Task:
    """Read a task by its name, or by the path of a user's YAML file.

    Raises:
        TaskError: The task does not exist, its YAML does not parse, or a field is invalid.
    """
    if given == HELD_OUT.name:
        raise TaskError(
            f"task {given} is the evaluation of a run: run `llava-av evaluate RUN` without --task"
        )
    document = read_document(given, kind="task", folders=(_FOLDER,), error=TaskError)
    task = validate(Task, document.content, where=document.where, error=TaskError)
    if task.name == HELD_OUT.name:
        raise TaskError(f"{document.where}: name {task.name} is reserved: choose another")
    return task
