"""Doing a step again when what failed may pass: a pipeline's backend does not start a failed step anew."""

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from llava_av.errors import UserError, explain
from llava_av.workflows.runtime.failures import pipeline_run

__all__ = ["patient"]

_PAUSES_S = (5.0, 15.0, 45.0, 90.0)

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def patient(step: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Let `step`, in a pipeline on a cluster, be done again after an error that may pass.

    A step is idempotent: what it did before it failed is found and not done twice. On this machine a person
    looks on, who wants to know at once.
    """

    @functools.wraps(step)
    def patiently(*arguments: _Given.args, **options: _Given.kwargs) -> _Result:
        for pause_s in _PAUSES_S if pipeline_run() else ():
            try:
                return step(*arguments, **options)
            except UserError as error:
                if not error.transient:
                    raise
                print(f"warning: {explain(error)}; trying again in {pause_s:.0f} s", flush=True)
            time.sleep(pause_s)
        return step(*arguments, **options)

    return patiently
