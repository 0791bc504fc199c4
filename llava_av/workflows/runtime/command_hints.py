"""Paths of a run and commands that use them, ready to copy."""

import itertools
import os
import shlex
import shutil
import sys
from pathlib import Path

from llava_av.datasets.schema import Sample, SampleError, parse_stored
from llava_av.datasets.sources.rows import CONVERSATIONS
from llava_av.redaction import without_password
from llava_av.services.addresses import EMBEDDED_VARIABLE
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["chat_command", "mlflow_hint", "program", "short_path"]


def program() -> str:
    """Return how to call `llava-av`: by name if it is on the PATH, else by path."""
    script = Path(sys.executable).parent / "llava-av"
    if not script.is_file():
        return f"{shlex.quote(short_path(Path(sys.executable)))} -m llava_av"
    found = shutil.which("llava-av")
    if found is not None and Path(found).absolute() == script.absolute():
        return "llava-av"
    return shlex.quote(short_path(script))


def short_path(path: Path) -> str:
    """Return a path relative to the current folder if it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def mlflow_hint(workspace: Workspace) -> str:
    """Return the address of MLflow's store, or its file and the command that serves it."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named and EMBEDDED_VARIABLE not in os.environ:
        return without_password(named)
    folder = shlex.quote(short_path(workspace.folder))
    database = short_path(workspace.state / "mlflow.db")
    return f"{database}  (`{program()} services up --output-dir {folder}` serves it)"


def chat_command(workspace: Workspace, checkpoint: str, dataset_commit: str) -> str:
    """Return a command that asks a checkpoint about a sample that the report shows, or about FILE.

    Args:
        workspace: Folder with the copy of the sample.
        checkpoint: Checkpoint or model version to ask.
        dataset_commit: Commit of the sample.
    """
    folder = shlex.quote(short_path(workspace.folder))
    question = _example(workspace.shown_samples(dataset_commit)) or '--video FILE "QUESTION"'
    return f"{program()} chat {checkpoint} --output-dir {folder} {question}"


def _example(data: Path) -> str | None:
    try:
        with (data / CONVERSATIONS).open(encoding="utf-8") as lines:
            samples = map(parse_stored, lines, itertools.count(1))
            return next((asked for sample in samples if (asked := _question(data, sample))), None)
    except (OSError, ValueError, SampleError):
        return None


def _question(data: Path, sample: Sample) -> str | None:
    """Return the arguments that ask a sample's question; None if it lacks one local file per modality."""
    text = sample.conversations[0].value
    words: list[str] = []
    for option, files in (("video", sample.video), ("audio", sample.audio), ("image", sample.image)):
        if len(files) > 1 or not all((data / file).is_file() for file in files):
            return None
        words += [word for file in files for word in (f"--{option}", short_path(data / file))]
        text = text.replace(f"<{option}>", "")
    if not words:
        return None
    words += [] if sample.use_audio else ["--no-audio"]
    return shlex.join([*words, text.strip()])
