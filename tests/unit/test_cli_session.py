"""Removal of a command's temporary files, by itself or by the next command."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.cli.session import _make, _temporary_folder, require_state
from llava_av.errors import UserError
from llava_av.workflows.runtime.workspace import Workspace


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
    with pytest.raises(UserError, match="is not a folder; choose another"):
        _make(Workspace(folder=tmp_path / "file"))


@pytest.mark.parametrize(
    "command",
    [
        ["chat", "models:/quick/1", "Hi"],
        ["data", "show", "clips"],
        ["index"],
        ["lineage", "models:/quick/1"],
        ["model-card", "models:/quick/1"],
        ["promote", "0123"],
        ["register", "0123"],
        ["report", "0123"],
        ["reproduce", "models:/quick/1"],
        ["rollback", "quick", "--reason", "a test"],
    ],
)
def test_a_folder_without_state_is_refused_and_not_made(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    folder = tmp_path / "typo"
    with pytest.raises(UserError, match=r"typo has no state with .*: name .* with --output-dir"):
        CliRunner().invoke(app, [*command, "--output-dir", str(folder)], catch_exceptions=False)
    assert not folder.exists()


def test_a_named_server_needs_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
    require_state(tmp_path, "clips")
