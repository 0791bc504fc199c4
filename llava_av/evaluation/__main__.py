"""One process of an evaluation job: `python -m llava_av.evaluation --run RUN --work DIR [--at PREFIX]`."""

from collections.abc import Callable
from pathlib import Path

from llava_av.processes import exit_without_teardown, job_main


def _load() -> Callable[[str, Path, str], None]:
    from llava_av.evaluation.runner import evaluate

    return evaluate


if __name__ == "__main__":
    options = {"at": "prefix of the evaluation below the run; by default the run's own evaluation"}
    exit_without_teardown(job_main("llava_av.evaluation", _load, options=options))
