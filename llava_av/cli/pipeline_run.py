"""Run of the pipeline in a child process, with its progress and outcome."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from llava_av.cli.display import console_progress, print_json, result_console
from llava_av.cli.dryrun_summary import show_outcome
from llava_av.cli.session import session
from llava_av.errors import UserError
from llava_av.experiments.completeness import require_record
from llava_av.files import file_lock
from llava_av.processes import PROFILE_FOLDER_VARIABLE, PROFILE_STEPS_VARIABLE, set_variables
from llava_av.processes.guard import end_guarded, guarded_popen
from llava_av.recipe import Recipe
from llava_av.runs import Summary
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_data import DEMO
from llava_av.workflows.index import index_step
from llava_av.workflows.open_run import default_record
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["PipelineRequest", "run_here"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PipelineRequest:
    """Parameters of a run on this machine."""

    recipe: Recipe
    dataset: str | None
    """Folder or committed datasets of the user; None for the demonstration dataset."""
    dataset_name: str
    """Name of the dataset; empty for the folder's name."""
    experiment: str
    """Experiment record; empty for the default of the dataset."""
    gate: bool
    profile_steps: int = 0
    """Training steps to profile; 0 for none."""

    @property
    def folder(self) -> Path | None:
        """Return the folder to commit; None for committed datasets and for the demonstration."""
        if self.dataset is None or ("/" not in self.dataset and not Path(self.dataset).exists()):
            return None
        return Path(self.dataset).absolute()

    def parameters(self) -> dict[str, str | bool]:
        """Return the pipeline's parameters."""
        return {
            "recipe": self.recipe.stated_json(),
            "dataset": str(self.folder or self.dataset or DEMO),
            "dataset_name": self.dataset_name,
            "experiment": default_record(self.experiment, self.dataset or DEMO),
            "launcher": "local",
            "gate": self.gate,
        }

    def variables(self, workspace: Workspace) -> dict[str, str]:
        """Return the environment variables of the training that this command sets."""
        if not self.profile_steps:
            return {}
        folder = str(workspace.logs / "profile")
        return {PROFILE_STEPS_VARIABLE: str(self.profile_steps), PROFILE_FOLDER_VARIABLE: folder}


def run_here(request: PipelineRequest, output_dir: Path, *, as_json: bool = False) -> int:
    """Run all steps; return 1 if the gate failed or an expectation was missed, else 0.

    The folder keeps the results of an earlier run until this run's own replace them.

    Raises:
        UserError: A part of the request is invalid, or a step failed, with the step's own message.
    """
    _require_valid(request)
    if not request.gate:
        _LOG.info("skipping the gate: the model is not judged")
    with session(output_dir, wait_for_mlflow=False, resumes=True) as workspace, _exclusive_use(workspace):
        with set_variables(request.variables(workspace)), console_progress():
            _run_child(workspace, request)
        index_step(ObjectStore.from_env(), workspace.folder)
        console = Console(quiet=True) if as_json else result_console()
        code = show_outcome(console, workspace, judged=request.gate)
        if as_json:
            print_json(json.loads((workspace.folder / Summary.NAME).read_text(encoding="utf-8")))
        return code


def _require_valid(request: PipelineRequest) -> None:
    """Check the request before the output folder is created or changed."""
    if request.folder is not None and not request.folder.is_dir():
        raise UserError(
            f"--dataset {request.dataset}: no such folder; check the path, or give the name of a committed "
            "dataset"
        )
    request.recipe.require_used_adapter()
    require_record(default_record(request.experiment, request.dataset or DEMO), "parts")


@contextmanager
def _exclusive_use(workspace: Workspace) -> Iterator[None]:
    refusal = UserError(
        f"another run is using {workspace.folder}: wait for it or choose another --output-dir"
    )
    with file_lock(workspace.state / "dryrun.lock", refusal=refusal):
        yield


def _run_child(workspace: Workspace, request: PipelineRequest) -> None:
    arguments = workspace.state / "pipeline.json"
    arguments.write_text(json.dumps(request.parameters()))
    workspace.error_file.unlink(missing_ok=True)
    log = workspace.logs / "pipeline.log"
    command = [sys.executable, "-m", "pipelines.local"]
    command += ["--arguments", str(arguments), "--folder", str(workspace.folder)]
    with log.open("wb") as file:
        process = guarded_popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        finally:
            end_guarded(process)
    if code:
        raise UserError(_cause(workspace, code, log))


def _cause(workspace: Workspace, code: int, log: Path) -> str:
    try:
        return workspace.error_file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return f"the pipeline ended with exit code {code}, but no step reported an error (log: {log})"
