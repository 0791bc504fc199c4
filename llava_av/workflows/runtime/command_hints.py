"""Hints for users: the places of a run's results, and commands to type in this folder."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from llava_av.redaction import without_password
from llava_av.services.addresses import EMBEDDED_VARIABLE
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["chat_command", "mlflow_place", "program", "short"]

_OPTIONS = ("video", "audio", "image")


def program() -> str:
    """Return the command to call `llava-av`: its path, unless the PATH finds it."""
    script = Path(sys.executable).parent / "llava-av"
    if not script.is_file():
        return f"{shlex.quote(short(Path(sys.executable)))} -m llava_av"
    found = shutil.which("llava-av")
    if found is not None and Path(found).absolute() == script.absolute():
        return "llava-av"
    return shlex.quote(short(script))


def short(path: Path) -> str:
    """Return a path as a user types it in this folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def mlflow_place(workspace: Workspace) -> str:
    """Return the place of MLflow's store, with the command that opens it."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named and EMBEDDED_VARIABLE not in os.environ:
        return without_password(named)
    folder = shlex.quote(short(workspace.folder))
    database = short(workspace.state / "mlflow.db")
    return f"{database}  (`{program()} services up --output-dir {folder}` opens its pages)"


def chat_command(workspace: Workspace, checkpoint: str, dataset_commit: str) -> str:
    """Return a command that asks a model about a held-out sample with local files, or about FILE."""
    folder = shlex.quote(short(workspace.folder))
    asked = _example(workspace.work / "data" / dataset_commit[:16]) or '--video FILE "QUESTION"'
    return f"{program()} chat {checkpoint} --output-dir {folder} {asked}"


def _example(data: Path) -> str | None:
    try:
        with (data / "held_out.jsonl").open(encoding="utf-8") as lines:
            samples = map(json.loads, lines)
            return next((asked for sample in samples if (asked := _question(data, sample))), None)
    except (OSError, ValueError):
        return None


def _question(data: Path, sample: dict[str, Any]) -> str | None:
    """Return options and text that ask the sample's question; None unless it has one local file a kind."""
    text = sample["conversations"][0]["value"]
    words: list[str] = []
    for option in _OPTIONS:
        files = sample.get(option) or ()
        if len(files) > 1 or not all((data / file).is_file() for file in files):
            return None
        words += [word for file in files for word in (f"--{option}", short(data / file))]
        text = text.replace(f"<{option}>", "")
    if not words:
        return None
    words += ["--no-audio"] if sample.get("use_audio") is False else []
    return shlex.join([*words, text.strip()])
