"""A task: which files are read, what is asked, and how replies are read, under one version."""

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
    """A task that is unknown or does not parse, or data that are not in its format; named in one line."""


class Task(FrozenModel):
    """One task's file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)
    """Lower-case; results are kept under it."""
    version: int = Field(ge=1)
    """Raised with every change of what is asked; results of two versions are never compared."""
    about: str
    """What it asks about, and where it was published."""
    reader: Literal["daily_omni", "avqa", "music_avqa", "clotho_aqa", "worldsense", "questions"]
    """The format of its data."""
    files: str
    """What the folder of its data holds, for the user who has to fill one."""
    rule: Literal["choice", "letter", "open"]
    """How replies are read."""
    prompt: str
    """What is asked: `{question}`, `{choices}` as lettered lines, `<video>` or `<audio>` as in a sample."""
    max_new_tokens: int = Field(default=16, ge=1)
    """Tokens after which a reply is cut."""

    @model_validator(mode="after")
    def _prompt_asks(self) -> Self:
        if "{question}" not in self.prompt:
            raise ValueError("prompt has no {question}")
        if self.rule == "letter" and "{choices}" not in self.prompt:
            raise ValueError("the rule letter needs {choices} in the prompt: without it there are no letters")
        return self

    def note(self) -> TaskNote:
        """Return the task as results record it."""
        rule = RULES[self.rule]
        return TaskNote(
            name=self.name,
            version=self.version,
            rule=rule.name,
            rule_version=rule.version,
            prompt=self.prompt,
        )


def task_names() -> list[str]:
    """Return the names of the tasks that come with the code."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_task(given: str) -> Task:
    """Read a task by its name, or by the path of a user's YAML file.

    Raises:
        TaskError: no such task, YAML that does not parse, or a field that is not allowed.
    """
    if given == HELD_OUT.name:
        raise TaskError(f"the task {given} is a run's own: `llava-av evaluate RUN` without --task does it")
    document = read_document(given, kind="task", folder=_FOLDER, error=TaskError)
    task = validate(Task, document.content, where=document.where, error=TaskError)
    if task.name == HELD_OUT.name:
        raise TaskError(f"{document.where}: the name {task.name} is taken; give the task another")
    return task
