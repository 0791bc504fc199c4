"""Author to record for a dataset commit."""

import subprocess

from llava_av.workflows.runtime.actor import actor

__all__ = ["author"]

_GIT_S = 10.0


def author() -> str:
    """Return git's user as `NAME <EMAIL>`; the current actor if git has none."""
    name, email = _git_setting("user.name"), _git_setting("user.email")
    return f"{name} <{email}>" if name and email else name or email or actor()


def _git_setting(name: str) -> str:
    try:
        done = subprocess.run(
            ["git", "config", "--get", name], capture_output=True, text=True, timeout=_GIT_S, check=False
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip()
