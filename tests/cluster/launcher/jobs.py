"""Jobs of one Python statement."""

import os
import time
from collections.abc import Callable
from typing import Any

from llava_av.launch import JobSpec

Kubectl = Callable[..., str]
Launch = Callable[..., Any]


IMAGE = os.environ.get("LLAVA_AV_SMALL_IMAGE", "python:3.11-slim-bookworm")
SMALL = {
    "image": IMAGE,
    "cpu": "100m",
    "memory": "128Mi",
    "shared_memory": "16Mi",
    "services_config_map": None,
    "credentials_secret": None,
    "retries": 0,
    "grace_s": 5,
    "deadline_s": 600,
}
ENDS_WITHIN_S = 120.0


def python(name: str, statement: str) -> JobSpec:
    """Return a job that runs one Python statement with `timeit`, a module that accepts statements."""
    return JobSpec(name=name, run="test", module="timeit", arguments=("-n1", "-r1", statement))


def eventually(condition: Callable[[], object], within_s: float = ENDS_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition does not hold in time"
        time.sleep(0.2)
