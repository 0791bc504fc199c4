"""The wheel, installed without a checkout, which runs the quick dry run in an empty folder."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from llava_av import __version__
from llava_av.named_files import FileKind, default_folder
from tests.commands import ROOT, without_network

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]

_BIN = Path(sys.executable).parent
_PACKAGES = sysconfig.get_path("purelib")
_VARIABLES = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTHON"))}


def uv(*arguments: str | Path) -> None:
    """Run uv without a network."""
    done = subprocess.run([_BIN / "uv", *arguments, "--offline"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def built(sources: Path, kind: str, folder: Path) -> Path:
    """Build a wheel or a source archive with this environment's build tools."""
    uv("build", f"--{kind}", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, sources)
    (file,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return file


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and the commit from which the wheel was built."""

    wheel: Path
    python: Path
    folder: Path
    """Empty folder outside of any checkout."""
    commit: str

    def run(self, *command: str, prefix: Sequence[str] = (), code: int = 0) -> str:
        """Run a command of the environment, and return its output."""
        done = subprocess.run(
            [*prefix, self.python.with_name(command[0]), *command[1:]],
            cwd=self.folder,
            env={**_VARIABLES, "PATH": f"{self.python.parent}:{_BIN}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build a source archive of a clone and from it a wheel, and install that into a new environment."""
    base = tmp_path_factory.mktemp("wheel")
    clone, unpacked, outside = base / "clone", base / "unpacked", base / "outside"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    shutil.unpack_archive(built(clone, "sdist", base / "sdist"), unpacked)
    (sources,) = unpacked.iterdir()
    wheel = built(sources, "wheel", base / "dist")
    venv.create(base / "venv")
    python = base / "venv" / "bin" / "python"
    uv("pip", "install", "--no-deps", "--python", python, wheel)
    # This environment's packages without this project, whose own .pth file Python does not read there.
    (site,) = (base / "venv" / "lib").glob("python*/site-packages")
    (site / "shared.pth").write_text(f"{_PACKAGES}\n")
    outside.mkdir()
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=clone, text=True).strip()
    return Installed(wheel=wheel, python=python, folder=outside, commit=commit)


def test_the_wheel_has_the_files_that_commands_find_by_name(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    for kind in FileKind:
        folder = default_folder(kind)
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        assert files
        assert {f"llava_av/defaults/{kind}/{path}" for path in files} <= names
    assert {name.split("/")[0] for name in names} == {
        "llava_av",
        "pipelines",
        f"llava_av-{__version__}.dist-info",
    }


def test_it_knows_version_and_commit(installed: Installed) -> None:
    short = f"llava-av {__version__} (git {installed.commit[:12]})\n"
    assert installed.run("llava-av", "--version") == short
    program = "from llava_av.provenance.source_code import code_state; print(code_state().git.commit)"
    assert installed.run("python", "-c", program).strip() == installed.commit


def test_it_lists_recipes_and_records(installed: Installed) -> None:
    recipes = [line.split()[0] for line in installed.run("llava-av", "recipe", "list").splitlines()]
    assert recipes == sorted(path.stem for path in default_folder(FileKind.RECIPES).glob("*.yaml"))
    assert "plain-order" in installed.run("llava-av", "experiment", "list")


def test_its_records_are_not_changed(installed: Installed) -> None:
    said = installed.run("llava-av", "experiment", "check", "plain-order", "--write", code=1)
    assert re.search(
        rf"{installed.python.parents[1]}/\S+/plain-order.md belongs to the installed package", said
    )


def test_the_commands_of_a_new_project_run(installed: Installed) -> None:
    installed.run("llava-av", "init", "project", "--name", "talks")
    project = replace(installed, folder=installed.folder / "project")
    readme = (project.folder / "README.md").read_text()
    commands = [shlex.split(line) for line in readme.splitlines() if line.startswith("llava-av ")]
    assert len(commands) == 4
    for command in commands:
        project.run(*command)
    assert (
        "accuracy.av.joint at least 0.5"
        in (project.folder / "dryrun-outputs" / "experiments" / "talks.md").read_text()
    )


def test_the_quick_dry_run_needs_no_checkout(installed: Installed) -> None:
    said = installed.run("llava-av", "dryrun", "--quick", "--output-dir", "out", prefix=without_network())
    assert "gate" in said
    assert (installed.folder / "out" / "report.html").is_file()
    assert installed.commit[:12] in (installed.folder / "out" / "experiments" / "dryrun.md").read_text()
