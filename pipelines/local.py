"""Run the pipeline on this machine: `python -m pipelines.local --arguments FILE --folder DIR`.

It runs in a separate process, because `kfp.local` replaces `print`, writes to standard output, and ignores
signals while it waits for its steps: the parent command ends it through the lifeline.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_av.logs import configure_logging, log_error
from llava_av.processes import watch_lifeline
from llava_av.redaction import redact_output
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["main", "run_pipeline"]


def main(arguments: Sequence[str]) -> int:
    """Run the pipeline with the parameters in a JSON file; return exit code 1 if a step failed."""
    watch_lifeline()
    redact_output()
    configure_logging()
    parser = argparse.ArgumentParser(prog="pipelines.local", description="Run the pipeline on this machine.")
    parser.add_argument("--arguments", type=Path, required=True, help="JSON file of the parameters")
    parser.add_argument("--folder", type=Path, required=True, help="output folder of the run")
    options = parser.parse_args(arguments)
    workspace = Workspace(folder=options.folder.absolute())
    return 0 if run_pipeline(workspace, json.loads(options.arguments.read_text())) else 1


def run_pipeline(workspace: Workspace, parameters: Mapping[str, Any]) -> bool:
    """Run all steps in order; return False if one failed (its error is in the workspace's error file)."""
    from kfp import local

    from pipelines.pipeline import build_pipeline

    root = workspace.state / "pipeline"
    shutil.rmtree(root, ignore_errors=True)
    workspace.error_file.unlink(missing_ok=True)
    with _python_by_name(root / "bin"):
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(root / "root"),
            workspace_root=str(root / "workspace"),
            raise_on_error=True,
        )
        # For each task, kfp warns that it ignores images and resources.
        warnings.filterwarnings("ignore", module=r"kfp\.local\.")
        try:
            build_pipeline()(**parameters)
        except RuntimeError as error:
            log_error(str(error), error)
            return False
    return True


@contextlib.contextmanager
def _python_by_name(folder: Path) -> Iterator[None]:
    """Make `python3` on the PATH this interpreter, and let the local runner call it by that name.

    The runner replaces each `python3` in a step's shell script and parameters by the unquoted
    `sys.executable`. A folder with a space, or a path with `python3` in it, would break steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "python3"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    script.chmod(0o755)
    executable, path = sys.executable, os.environ.get("PATH", os.defpath)
    sys.executable, os.environ["PATH"] = "python3", f"{folder}{os.pathsep}{path}"
    try:
        yield
    finally:
        sys.executable, os.environ["PATH"] = executable, path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
