"""Temporary files of a command end with it, or with the next one."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from llava_av.cli.session import _make, _temporary_folder
from llava_av.errors import UserError
from llava_av.steps.context import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(folder=tmp_path / "out")
    _make(made)
    return made


def test_children_get_a_folder_that_is_gone_afterwards(workspace: Workspace) -> None:
    before = os.environ.get("TMPDIR"), tempfile.gettempdir()
    with _temporary_folder(workspace):
        folder = Path(os.environ["TMPDIR"])
        assert tempfile.gettempdir() == str(folder)
        (folder / "left").write_text("x")
    assert not folder.exists()
    assert (os.environ.get("TMPDIR"), tempfile.gettempdir()) == before


def test_what_a_killed_command_left_is_removed(workspace: Workspace) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = Path(tempfile.mkdtemp(prefix="llava-av-"))
    notes = workspace.state / "temporary"
    notes.mkdir()
    (notes / str(ended.pid)).write_text(str(left))
    with _temporary_folder(workspace):
        assert not left.exists()
        assert [note.name for note in notes.iterdir()] == [str(os.getpid())]


def test_nothing_but_own_folders_is_removed(workspace: Workspace, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    notes = workspace.state / "temporary"
    notes.mkdir()
    ended = subprocess.Popen(["true"])
    ended.wait()
    (notes / str(ended.pid)).write_text(str(precious))
    with _temporary_folder(workspace):
        assert precious.exists()


def test_strange_notes_are_left_alone(workspace: Workspace) -> None:
    notes = workspace.state / "temporary"
    (notes / "1000000000").mkdir(parents=True)
    (notes / ".DS_Store").write_text("")
    with _temporary_folder(workspace):
        assert (notes / ".DS_Store").exists()


def test_name_too_long_for_the_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="File name too long; choose another"):
        _make(Workspace(folder=tmp_path / ("x" * 300)))


def test_output_dir_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is no folder; choose another"):
        _make(Workspace(folder=tmp_path / "file"))
