"""Retries of steps after transient errors: a pipeline's backend does not retry failed steps."""

import functools
import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from llava_av.errors import UserError, explain
from llava_av.workflows.runtime.failures import pipeline_run

__all__ = ["retry_transient"]

_LOG = logging.getLogger(__name__)

_PAUSES_S = (5.0, 15.0, 45.0, 90.0)

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def retry_transient(step: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Decorate a step so that it is retried after transient errors in a pipeline on a cluster.

    Steps are idempotent: a retry finds the work done so far and does not repeat it. Interactive runs fail
    fast.
    """

    @functools.wraps(step)
    def retried(*arguments: _Given.args, **options: _Given.kwargs) -> _Result:
        for pause_s in _PAUSES_S if pipeline_run() else ():
            try:
                return step(*arguments, **options)
            except UserError as error:
                if not error.transient:
                    raise
                _LOG.warning("%s; retrying in %.0f s", explain(error), pause_s)
            time.sleep(pause_s)
        return step(*arguments, **options)

    return retried
