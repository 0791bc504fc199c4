"""Creation of projects: a folder with recipe, experiment record, gate, workflow and example data."""

import datetime
import re
from collections.abc import Mapping
from pathlib import Path

from llava_av import __version__
from llava_av.datasets.demo import demo_blocks, demo_questions, write_demo_clips
from llava_av.datasets.schema import to_jsonl
from llava_av.datasets.sources.rows import CONVERSATIONS
from llava_av.errors import UserError
from llava_av.files import write_whole
from llava_av.named_files import FileKind, default_folder
from llava_av.workflows.commit_data import DEMO

__all__ = ["ProjectError", "create_project"]

_TEMPLATES = Path(__file__).with_name("project_template")
_FILES = {
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "recipe.yaml": "recipes/@name@.yaml",
    "record.md": "experiments/@name@.md",
    "gate.yaml": "gates/champion.yaml",
    "workflow.yml": ".github/workflows/check.yml",
}
"""File of the project, by the name of its template."""
_DATA = "data"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class ProjectError(UserError):
    """A project that cannot be created."""


def create_project(folder: Path, name: str = "", *, today: datetime.date | None = None) -> list[Path]:
    """Create a project, and return its files and its data folder, relative to `folder`.

    Args:
        folder: Folder of the project, created if necessary.
        name: Name of its recipe, record and dataset; by default the folder's, in lower case with dashes.
        today: Date of the record; today if None.

    Raises:
        ProjectError: The name is not allowed or taken, a file exists, or the folder cannot be written.
    """
    name = name or re.sub(r"[^a-z0-9]+", "-", folder.absolute().name.lower()).strip("-")
    if not _NAME.fullmatch(name):
        raise ProjectError(f"project name {name!r}: use lower-case letters, digits and '-', with --name")
    if _is_taken(name):
        raise ProjectError(
            f"project name {name!r}: llava-av has a dataset, recipe or record of this name; choose another "
            "with --name"
        )
    created = (today or datetime.date.today()).isoformat()
    texts = _texts({"@name@": name, "@date@": created, "@version@": __version__})
    for path in (*texts, Path(_DATA)):
        if (folder / path).exists():
            raise ProjectError(f"{folder / path} exists already: choose another folder, or move it away")
    try:
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / path, text)
        _write_data(folder / _DATA)
    except OSError as error:
        raise ProjectError(
            f"project {folder}: cannot be written: {error.strerror or error}; choose another folder"
        ) from None
    return [*texts, Path(_DATA)]


def _is_taken(name: str) -> bool:
    """Return whether a name has a meaning that a file of the project would change."""
    recipe = default_folder(FileKind.RECIPES) / f"{name}.yaml"
    record = default_folder(FileKind.EXPERIMENTS) / f"{name}.md"
    return name == DEMO or recipe.is_file() or record.is_file()


def _texts(values: Mapping[str, str]) -> dict[Path, str]:
    def filled(text: str) -> str:
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        return text

    return {
        Path(filled(path)): filled((_TEMPLATES / template).read_text(encoding="utf-8"))
        for template, path in _FILES.items()
    }


def _write_data(folder: Path) -> None:
    """Write one block of the demonstration's clips as a dataset like a user's own."""
    (clips,) = demo_blocks(seed=0, train_blocks=1, held_out_blocks=0)
    write_demo_clips(folder, clips)
    samples = [sample for clip in clips for sample in demo_questions(clip)]
    write_whole(folder / CONVERSATIONS, to_jsonl(samples))
