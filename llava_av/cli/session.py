"""What every command that works on a run needs around it: servers, and an orderly end."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from llava_av.errors import UserError
from llava_av.processes import PROGRESS_VARIABLE, Lifeline, handling_signals, set_variables
from llava_av.workflows.runtime.workspace import OUTPUT_VARIABLE, Workspace

__all__ = ["require_state", "session"]

_TEMPORARY_PREFIX = "llava-av-"


def require_state(output_dir: Path, wanted: str) -> None:
    """Refuse to look for what an output folder without state cannot have, and make no such folder.

    Args:
        output_dir: Folder of state, logs and results.
        wanted: What the command looks for.

    Raises:
        UserError: The folder has no state, and no S3 server is named.
    """
    named = bool(os.environ.get("AWS_ENDPOINT_URL_S3"))
    if not named and not Workspace(folder=output_dir.absolute()).state.is_dir():
        raise UserError(
            f"{output_dir} holds no state to find {wanted} in; name the run's folder by --output-dir"
        )


@contextlib.contextmanager
def session(
    output_dir: Path, *, need_mlflow: bool = True, wait_for_mlflow: bool = True, require_mlflow: bool = True
) -> Iterator[Workspace]:
    """Make the folder, start or join its servers, and name all of it to child processes.

    SIGINT and SIGTERM first end the children, then leave the block by KeyboardInterrupt or SystemExit, so
    that the servers are stopped in order. A second signal ends this process at once; its guards then see
    to everything below it.

    Args:
        output_dir: Folder of state, logs and results.
        need_mlflow: Whether the block needs MLflow.
        wait_for_mlflow: False to begin before an embedded MLflow answers, which it does some seconds later.
        require_mlflow: False to log only a warning if a named MLflow does not answer.
    """
    from llava_av.services import service_environment

    workspace = Workspace(folder=output_dir.absolute())
    _make(workspace)
    servers = service_environment(
        workspace.state,
        need_mlflow=need_mlflow,
        wait_for_mlflow=wait_for_mlflow,
        require_mlflow=require_mlflow,
    )
    with _temporary_folder(workspace), Lifeline() as lifeline, _ending_on_signals(lifeline), servers:
        variables = {
            # The servers do not watch this lifeline: they have to outlive the steps that write to them.
            **lifeline.env(),
            OUTPUT_VARIABLE: str(workspace.folder),
            PROGRESS_VARIABLE: str(Path(tempfile.gettempdir()) / "progress.jsonl"),
            # Where the command was called must not decide which modules its child processes import.
            "PYTHONSAFEPATH": os.environ.get("PYTHONSAFEPATH", "1"),
        }
        with set_variables(variables):
            yield workspace


def _make(workspace: Workspace) -> None:
    try:
        workspace.logs.mkdir(parents=True, exist_ok=True)
        # Other users must not read copies of datasets and weights; logs and reports follow the umask.
        workspace.state.mkdir(mode=0o700, exist_ok=True)
        workspace.work.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--output-dir {workspace.folder} is no folder; choose another") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"cannot write in --output-dir {workspace.folder}: {reason}; choose another"
        ) from None


@contextlib.contextmanager
def _temporary_folder(workspace: Workspace) -> Iterator[None]:
    """Give this process and its children one folder for temporary files, and remove a killed run's.

    Not below the output folder: sockets are made in it, and their paths may have about 100 characters.
    """
    notes = workspace.state / "temporary"
    notes.mkdir(exist_ok=True)
    _remove_left_behind(notes)
    folder = tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX)
    note = notes / str(os.getpid())
    note.write_text(folder)
    tempfile.tempdir = folder
    try:
        with set_variables({"TMPDIR": folder}):
            yield
    finally:
        tempfile.tempdir = None
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)


def _remove_left_behind(notes: Path) -> None:
    for note in list(notes.iterdir()):
        # Another command may clean up at the same time, and a person may have put a file here.
        with contextlib.suppress(OSError, ValueError):
            if not _lives(int(note.name)):
                left = Path(note.read_text())
                if left.name.startswith(_TEMPORARY_PREFIX):
                    shutil.rmtree(left, ignore_errors=True)
                note.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _ending_on_signals(lifeline: Lifeline) -> AbstractContextManager[None]:
    seen: list[int] = []

    def end(number: int, frame: FrameType | None) -> NoReturn:
        if seen:
            os._exit(128 + number)
        seen.append(number)
        lifeline.close()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    return handling_signals(end, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
