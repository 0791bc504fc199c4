"""`torchrun … -m llava_av.training --run RUN --work DIR [--stage NAME]`: one process of a training job."""

from collections.abc import Callable

from llava_av.processes import exit_without_teardown, job_main


def _load() -> Callable[..., None]:
    from llava_av.training.job import train

    return train


if __name__ == "__main__":
    options = {"stage": "name of the only stage to train; empty for all that are not finished"}
    exit_without_teardown(job_main("llava_av.training", _load, options=options))
