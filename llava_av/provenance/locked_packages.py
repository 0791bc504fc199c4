"""The environment beside the lock that it should have been made from, and beside another environment."""

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["different_packages", "locked_versions", "not_as_locked"]

_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)", re.MULTILINE
)
_OURS = "llava-av"


def locked_versions(lock: Path) -> dict[str, set[str]]:
    """The versions that a lock has of each package, by normalised name (PEP 503).

    A package may have several, for several platforms.

    Args:
        lock: requirements file with `name==version` lines, such as requirements/lock.txt.
    """
    found: dict[str, set[str]] = {}
    for match in _PIN.finditer(lock.read_text(encoding="utf-8")):
        name = re.sub(r"[-_.]+", "-", match["name"]).lower()
        found.setdefault(name, set()).add(match["version"])
    return found


def not_as_locked(packages: Mapping[str, str], locked: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Installed packages that the lock has in other versions only, a phrase each.

    Packages that the lock does not know, such as an installer, and those of other platforms are left alone.

    Args:
        packages: version of each installed package, by normalised name.
        locked: what `locked_versions` gave.
    """
    return tuple(
        f"{name} {version}, locked {' or '.join(sorted(locked[name]))}"
        for name, version in sorted(packages.items())
        if name in locked and version not in locked[name]
    )


def different_packages(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Packages of two environments that differ in version, or that one lacks, a phrase each; not this one."""
    return tuple(
        f"{name} {before.get(name, 'absent')} then, {now.get(name, 'absent')} now"
        for name in sorted((before.keys() | now.keys()) - {_OURS})
        if before.get(name) != now.get(name)
    )
