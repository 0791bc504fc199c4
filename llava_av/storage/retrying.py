"""Retries of S3 operations; no other layer retries.

An operation is a function that signs and sends one request, or lists page after page. It raises `StoreError`,
whose `transient` states whether the same request may succeed later. Pauses grow exponentially with full
jitter, so that the many threads of a job do not return to a recovering server at the same moment. The
transport and the minio client do not retry: they send each request once.
"""

import itertools
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from llava_av.storage.store_errors import StoreError

__all__ = ["retry"]

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 15.0
_WARN_AT_ATTEMPT = 3
# Drawing from the global generator, which is part of a training's state, would change the run's digest.
_JITTER = random.SystemRandom()

_Result = TypeVar("_Result")


def retry(operation: Callable[[], _Result], retry_s: float) -> _Result:
    """Call `operation` until it succeeds, fails permanently, or has failed for `retry_s` seconds.

    A transient failure is retried at least once, however long it took, unless `retry_s` is 0.

    Raises:
        StoreError: The last failure, with the number of attempts and their total time.
    """
    began = time.monotonic()
    for attempt in itertools.count(1):
        try:
            return operation()
        except StoreError as error:
            spent_s = time.monotonic() - began
            left_s = retry_s - spent_s
            if not error.transient or not retry_s or (left_s <= 0 and attempt > 1):
                _add_attempts(error, attempt, spent_s)
                raise
            if attempt == _WARN_AT_ATTEMPT:
                _LOG.warning("%s; retrying for up to %.0f s", error, left_s)
            pause_s = max(_pause_s(attempt), error.retry_after_s)
        time.sleep(max(0.0, min(pause_s, left_s)))
    raise AssertionError("unreachable")


def _pause_s(attempt: int) -> float:
    return _JITTER.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(attempt, 16)))


def _add_attempts(error: StoreError, attempts: int, spent_s: float) -> None:
    if attempts > 1:
        error.args = (f"{error} ({attempts} attempts in {spent_s:.0f} s)",)
