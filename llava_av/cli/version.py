"""The version of the code, with the git commit where it is known."""

import os
import subprocess
from pathlib import Path

import llava_av

__all__ = ["COMMIT_VARIABLE", "version_line"]

COMMIT_VARIABLE = "LLAVA_AV_COMMIT"
_GIT_TIMEOUT_S = 5


def version_line() -> str:
    """Such as `llava-av 0.1.0 (git 0123abc, modified)`."""
    commit = os.environ.get(COMMIT_VARIABLE) or _commit_of(Path(llava_av.__file__).parent.parent)
    return f"llava-av {llava_av.__version__}" + (f" (git {commit})" if commit else "")


def _commit_of(folder: Path) -> str | None:
    """The commit of a checkout; None for an installed package, or without git."""
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}, modified" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S
    )
    return done.stdout.strip()
