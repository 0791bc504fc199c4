"""`torchrun … -m llava_av.training --run RUN --work DIR`: one process of a training job."""

from collections.abc import Callable
from pathlib import Path

from llava_av.processes import exit_without_teardown, job_main


def _load() -> Callable[[str, Path], None]:
    from llava_av.training.job import train

    return train


if __name__ == "__main__":
    exit_without_teardown(job_main("llava_av.training", _load))
