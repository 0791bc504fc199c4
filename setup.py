"""Build commands that record the git commit in wheels and source archives, which have no checkout.

All other settings are in pyproject.toml.
"""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
NOTE = "llava_av/provenance/commit.txt"
CONTENTS = ("llava_av", "pipelines", "recipes", "gates", "experiments", "k8s/profiles", "pyproject.toml")


def git(*arguments: str) -> str:
    """Return the output of a git command in this folder."""
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def write_commit(folder: Path) -> None:
    """Write the commit of this checkout; an unpacked source archive has the file already."""
    if not (ROOT / ".git").exists():
        return
    modified = "-modified" if git("status", "--porcelain", "--", *CONTENTS) else ""
    (folder / NOTE).write_text(f"{git('rev-parse', 'HEAD')}{modified}\n", encoding="utf-8")


class BuildPy(build_py):
    """Copy the packages, and record the commit."""

    def run(self) -> None:
        """Run the command."""
        super().run()
        if not self.editable_mode:
            write_commit(Path(self.build_lib))


class Sdist(sdist):
    """Copy the sources, and record the commit."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Write the content of the archive."""
        super().make_release_tree(base_dir, files)
        write_commit(Path(base_dir))


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
