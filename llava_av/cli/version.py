"""Version of the code, with the Git commit if it is known."""

import subprocess
from pathlib import Path

import llava_av

__all__ = ["version_line"]

_GIT_TIMEOUT_S = 5
_SHORT = 12


def version_line() -> str:
    """Return the version such as `llava-av 0.1.0 (git 0123abc, modified)`."""
    commit = _commit_of(Path(llava_av.__file__).parent.parent) or _built_commit()
    return f"llava-av {llava_av.__version__}" + (f" (git {commit})" if commit else "")


def _built_commit() -> str:
    """Return the commit of an image or an installed package; empty if it is unknown."""
    from llava_av.provenance.source_code import MODIFIED, built_from

    commit = built_from() or ""
    return f"{commit[:_SHORT]}, modified" if commit.endswith(MODIFIED) else commit[:_SHORT]


def _commit_of(folder: Path) -> str | None:
    """Return the commit of a checkout; None for an installed package, or without Git."""
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", f"--short={_SHORT}", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}, modified" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S
    )
    return done.stdout.strip()
