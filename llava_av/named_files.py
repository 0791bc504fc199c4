"""Files that commands find by name: those of the project in the current folder, then those of the package.

A project keeps its recipes, gates, experiment records and job profiles in folders of these names. The
package has its own in `llava_av/defaults`: files in an installation, links to other folders in a checkout.
"""

from enum import StrEnum
from pathlib import Path

__all__ = ["FileKind", "default_folder", "is_installed", "named_folders", "project_folder"]

_DEFAULTS = Path(__file__).resolve().parent / "defaults"


class FileKind(StrEnum):
    """Kind of files that have names; also the name of their folder."""

    RECIPES = "recipes"
    GATES = "gates"
    EXPERIMENTS = "experiments"
    PROFILES = "profiles"


def project_folder(kind: FileKind) -> Path:
    """Return the folder of the project in the current folder; it may be missing."""
    return Path(kind)


def default_folder(kind: FileKind) -> Path:
    """Return the folder of the files that come with the code."""
    return (_DEFAULTS / kind).resolve()


def named_folders(kind: FileKind) -> tuple[Path, Path]:
    """Return the folders in which a name is looked up, in this order."""
    return project_folder(kind), default_folder(kind)


def is_installed(path: Path) -> bool:
    """Return whether a file belongs to an installed package, where an update would overwrite its changes."""
    return _DEFAULTS in path.resolve().parents
