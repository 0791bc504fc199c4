"""Ends of a step that runs in its own process, and the error lines that users see."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from llava_av.errors import UserError, explain
from llava_av.processes import PROGRESS_VARIABLE
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER, OUTPUT_VARIABLE, Workspace, step_process


def test_what_torch_warns_of_other_libraries_is_not_heard() -> None:
    program = (
        "from llava_av.workflows.runtime.workspace import quiet_libraries\n"
        "quiet_libraries()\nimport torchao.quantization"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "register_constant" not in done.stderr


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv(OUTPUT_VARIABLE, str(tmp_path))
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path / "progress.jsonl"))
    monkeypatch.delenv("LLAVA_AV_LIFELINE", raising=False)
    return Workspace(folder=tmp_path)


def test_step_that_ends_well_says_so(workspace: Workspace) -> None:
    with step_process("data") as inside:
        assert inside == workspace
    notes = (workspace.folder / "progress.jsonl").read_text()
    assert "started" in notes
    assert "done" in notes
    assert not workspace.error_file.exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("no clip x.mp4;\n look there"), "no clip x.mp4; look there"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "no space left on the disk at /data/x"),
        (ZeroDivisionError("division"), "step data failed: ZeroDivisionError: division (log: "),
    ],
)
def test_error_is_left_as_one_line(
    workspace: Workspace, error: Exception, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, step_process("data"):
        raise error
    assert ended.value.code == 1
    line = workspace.error_file.read_text()
    assert line.startswith(words)
    assert line.count("\n") == 1
    assert f"error: {line}" in capsys.readouterr().err


def test_only_what_a_user_can_act_on_is_explained() -> None:
    assert explain(ValueError("a bug")) is None
    assert explain(OSError(errno.EIO, "broken")) is None
    assert explain(OSError(errno.EDQUOT, "Quota exceeded")) is not None


def test_full_disk_is_told_whoever_met_it() -> None:
    met_by_library = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    assert "no space left on the disk" in (explain(met_by_library) or "")
    assert "at /data/x" in (explain(wrapped) or "")


def test_workspace_without_a_name_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(OUTPUT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert Workspace.from_env().folder == tmp_path / DEFAULT_FOLDER
