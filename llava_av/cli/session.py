"""Session of a command that works on a run: folders, servers, environment variables and signals."""

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from llava_av.errors import UserError
from llava_av.processes import PROGRESS_VARIABLE, Lifeline, handling_signals, set_variables
from llava_av.workflows.runtime.workspace import OUTPUT_VARIABLE, Workspace

if TYPE_CHECKING:
    from llava_av.storage import ObjectStore

__all__ = ["require_state", "session", "stored_objects"]

_LOG = logging.getLogger(__name__)

_TEMPORARY_PREFIX = "llava-av-"


def require_state(output_dir: Path, wanted: str) -> None:
    """Check that an output folder has state, without creating it.

    Args:
        output_dir: Folder of state, logs and results.
        wanted: The object that the command looks for, for the message.

    Raises:
        UserError: The folder has no state, and no S3 server is configured.
    """
    configured = bool(os.environ.get("AWS_ENDPOINT_URL_S3"))
    if not configured and not Workspace(folder=output_dir.absolute()).state.is_dir():
        raise UserError(f"{output_dir} has no state with {wanted}: name the run's folder with --output-dir")


@contextlib.contextmanager
def session(
    output_dir: Path,
    *,
    need_mlflow: bool = True,
    wait_for_mlflow: bool = True,
    require_mlflow: bool = True,
    on_signal: str = "",
    resumes: bool = False,
) -> Iterator[Workspace]:
    """Create the folder, start or join its servers, and set the variables for child processes.

    SIGINT and SIGTERM first end the children, unless `on_signal` is given, then leave the block by
    KeyboardInterrupt or SystemExit, so that the servers stop in order. A second signal ends this process
    immediately; guards then end its descendants.

    Args:
        output_dir: Folder of state, logs and results.
        need_mlflow: True if the block needs MLflow.
        wait_for_mlflow: False to start before an embedded MLflow answers, which takes some seconds.
        require_mlflow: False to log only a warning if the configured MLflow does not answer.
        on_signal: Text to log at the first signal if the block ends the children itself, in order; empty to
            end them immediately.
        resumes: True if the same command continues the interrupted work, which is logged then.
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
    with (
        _temporary_folder(workspace),
        Lifeline() as lifeline,
        _ending_on_signals(lifeline, on_signal),
        servers,
    ):
        variables = {
            # Servers do not watch this lifeline: they must outlive the steps that write to them.
            **lifeline.env(),
            OUTPUT_VARIABLE: str(workspace.folder),
            PROGRESS_VARIABLE: str(Path(tempfile.gettempdir()) / "progress.jsonl"),
            # Child processes must not import modules from the current folder.
            "PYTHONSAFEPATH": os.environ.get("PYTHONSAFEPATH", "1"),
        }
        with set_variables(variables), _describing_resume() if resumes else contextlib.nullcontext():
            yield workspace


@contextlib.contextmanager
def stored_objects(output_dir: Path, wanted: str, *, progress: bool = False) -> Iterator["ObjectStore"]:
    """Start or join the S3 server of an output folder that has state, and yield the store.

    Args:
        output_dir: Folder of state, logs and results.
        wanted: The object that the command looks for, for the message if the folder has no state.
        progress: True to show progress on standard error.
    """
    from llava_av.cli.display import console_progress
    from llava_av.storage import ObjectStore

    require_state(output_dir, wanted)
    shown = console_progress if progress else contextlib.nullcontext
    with session(output_dir, need_mlflow=False), shown():
        yield ObjectStore.from_env()


@contextlib.contextmanager
def _describing_resume() -> Iterator[None]:
    """Log how to resume if a signal ends the block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        _LOG.warning("interrupted: run the same command again to resume; finished work is reused")
        raise


def _make(workspace: Workspace) -> None:
    try:
        workspace.logs.mkdir(parents=True, exist_ok=True)
        # Only this user may read copies of datasets and weights; logs and reports follow the umask.
        workspace.state.mkdir(mode=0o700, exist_ok=True)
        workspace.work.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--output-dir {workspace.folder} is not a folder; choose another") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"cannot write to --output-dir {workspace.folder}: {reason}; choose another"
        ) from None


@contextlib.contextmanager
def _temporary_folder(workspace: Workspace) -> Iterator[None]:
    """Create one temporary folder for this process and its children, and remove those of killed runs.

    It is outside the output folder because it holds sockets, whose paths are limited to about 100 characters.
    """
    notes = workspace.state / "temporary"
    notes.mkdir(exist_ok=True)
    _remove_orphaned(notes)
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


def _remove_orphaned(notes: Path) -> None:
    for note in list(notes.iterdir()):
        # Another command may clean up at the same time, and the folder may hold unrelated files.
        with contextlib.suppress(OSError, ValueError):
            if not _is_alive(int(note.name)):
                left = Path(note.read_text())
                if left.name.startswith(_TEMPORARY_PREFIX):
                    shutil.rmtree(left, ignore_errors=True)
                note.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _ending_on_signals(lifeline: Lifeline, on_signal: str) -> AbstractContextManager[None]:
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> NoReturn:
        if received:
            os._exit(128 + number)
        received.append(number)
        if on_signal:
            _LOG.warning("%s", on_signal)
        else:
            lifeline.close()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    return handling_signals(end, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
