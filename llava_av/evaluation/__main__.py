"""`python -m llava_av.evaluation --run RUN --work DIR`: an evaluation job."""

import sys
from collections.abc import Callable
from pathlib import Path

from llava_av.processes import job_main


def _load() -> Callable[[str, Path], None]:
    from llava_av.evaluation.runner import evaluate

    return evaluate


if __name__ == "__main__":
    sys.exit(job_main("llava_av.evaluation", _load))
