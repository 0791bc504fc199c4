"""Author to record for a dataset commit."""

import subprocess

from llava_av.workflows.runtime.actor import actor

__all__ = ["author"]

_GIT_S = 10.0


def author() -> str:
    """Return git's user as `NAME <EMAIL>`; the current actor if git has none."""
    user = _git_user()
    name, email = user.get("user.name", ""), user.get("user.email", "")
    return f"{name} <{email}>" if name and email else name or email or actor()


def _git_user() -> dict[str, str]:
    """Return git's name and email by their keys; of several values, the last one counts."""
    command = ["git", "config", "--null", "--get-regexp", r"^user\.(name|email)$"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_GIT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    settings = (setting.partition("\n") for setting in done.stdout.split("\0"))
    return {name: value.strip() for name, _, value in settings}
