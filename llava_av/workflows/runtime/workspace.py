"""Local workspace of steps, and the wrapper of a step that runs in its own process."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llava_av.errors import explain, printable
from llava_av.logs import configure_logging, log_error
from llava_av.processes import report_progress, watch_lifeline
from llava_av.redaction import redact, redact_output
from llava_av.workflows.runtime.failures import forget_failure, keep_failure

__all__ = ["DEFAULT_FOLDER", "OUTPUT_VARIABLE", "STEPS", "Workspace", "quiet_libraries", "step_process"]

DEFAULT_FOLDER = Path("dryrun-outputs")

OUTPUT_VARIABLE = "LLAVA_AV_OUTPUT_DIR"
STEPS = ("data", "train", "register", "evaluate", "promote", "report")
_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # There are none, but pydantic would search the metadata of every installed package for them.
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
    # transformers imports torchao if it is installed, and torch warns about what torchao does.
    "TORCH_LOGS": "-torch.utils._pytree",
}


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Local folder of a run; all contents can be recreated from S3."""

    folder: Path

    @classmethod
    def from_env(cls) -> "Workspace":
        """Return the folder that LLAVA_AV_OUTPUT_DIR names, or the default of commands."""
        return cls(folder=Path(os.environ.get(OUTPUT_VARIABLE) or DEFAULT_FOLDER).absolute())

    @property
    def logs(self) -> Path:
        """Return the folder of logs of the pipeline and of each job."""
        return self.folder / "logs"

    @property
    def state(self) -> Path:
        """Return the folder of embedded servers' data and other internal files."""
        return self.folder / "state"

    @property
    def work(self) -> Path:
        """Return the folder of local copies of datasets and checkpoints, which is safe to delete."""
        return self.state / "work"

    def shown_samples(self, commit: str) -> Path:
        """Return the folder with the samples of a commit, by its ID, that a report shows."""
        return self.work / "data" / commit[:16]

    @property
    def file_cache(self) -> Path:
        """Return the file with the digests and checks of media files that were read before."""
        return self.work / "file-cache.sqlite"

    @property
    def experiments(self) -> Path:
        """Return the folder of experiment records with the observed values of this folder's runs."""
        return self.folder / "experiments"

    @property
    def error_file(self) -> Path:
        """Return the file with the error line of a failed step."""
        return self.state / "error.txt"


def quiet_libraries() -> None:
    """Disable telemetry, output and plugins of libraries, in this process and its children.

    Libraries read these variables when they are imported. Pillow warns about images that it can read; an
    unreadable image is an error.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"PIL\.")


@contextlib.contextmanager
def step_process(step: str) -> Iterator[Workspace]:
    """Wrap the body of a pipeline step that runs in its own process.

    The process ends with the command that started the pipeline. An error becomes exit code 1 and one line in
    the workspace's error file, since a pipeline runner reports that a step failed but not why.
    """
    watch_lifeline()
    redact_output()
    quiet_libraries()
    workspace = Workspace.from_env()
    report_progress(step, 0, 0, "started")
    try:
        configure_logging(step=step)
        yield workspace
    except Exception as error:
        line = explain(error)
        is_bug = line is None
        if line is None:
            line = f"step {step} failed: {type(error).__name__}: {error} (log: {workspace.logs}/pipeline.log)"
        line = printable(redact(" ".join(line.split())))
        log_error(line, error, traceback=is_bug)
        _write_error(workspace.error_file, line)
        keep_failure(step, line, workspace.logs)
        sys.exit(1)
    forget_failure(step)
    report_progress(step, 1, 1, "done")


def _write_error(file: Path, line: str) -> None:
    # The error may be a full disk; then only the pipeline's log has the line.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(line + "\n", encoding="utf-8")
