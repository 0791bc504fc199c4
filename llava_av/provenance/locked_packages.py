"""Comparison of installed packages with a lock file, and with another environment."""

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["different_packages", "locked_versions", "not_as_locked"]

_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)", re.MULTILINE
)
_OURS = "llava-av"


def locked_versions(lock: Path) -> dict[str, set[str]]:
    """Return the versions of each package in a lock file, by normalized name (PEP 503).

    A package may have several versions, for several platforms.

    Args:
        lock: Requirements file with `name==version` lines, such as requirements/lock.txt.
    """
    found: dict[str, set[str]] = {}
    for match in _PIN.finditer(lock.read_text(encoding="utf-8")):
        name = re.sub(r"[-_.]+", "-", match["name"]).lower()
        found.setdefault(name, set()).add(match["version"])
    return found


def not_as_locked(packages: Mapping[str, str], locked: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Return a phrase for each installed package that the lock file has only in other versions.

    Packages that are not in the lock file, such as an installer, and those of other platforms are ignored.

    Args:
        packages: Version of each installed package, by normalized name.
        locked: Result of `locked_versions`.
    """
    return tuple(
        f"{name} {version}, locked {' or '.join(sorted(locked[name]))}"
        for name, version in sorted(packages.items())
        if name in locked and version not in locked[name]
    )


def different_packages(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Return a phrase for each package, except llava-av, that differs between two environments."""
    return tuple(
        f"{name} {before.get(name, 'absent')} then, {now.get(name, 'absent')} now"
        for name in sorted((before.keys() | now.keys()) - {_OURS})
        if before.get(name) != now.get(name)
    )
