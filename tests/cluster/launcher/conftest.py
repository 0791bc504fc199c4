"""A small job profile, and launchers that use it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_av.launch import JobProfile, JobSpec, KubernetesLauncher
from tests.cluster.job_output import run_and_collect
from tests.cluster.launcher.jobs import SMALL, Kubectl, Launch


@pytest.fixture
def profile(restricted_namespace: str) -> JobProfile:
    return JobProfile(**SMALL, namespace=restricted_namespace)


@pytest.fixture
def launch(profile: JobProfile, tmp_path: Path) -> Launch:
    """Return a function that runs a job with changes to the profile."""

    def run(spec: JobSpec, *, on_line: Callable[[str], None] | None = None, **changes: Any) -> Any:
        chosen = profile.with_overrides(changes)
        return run_and_collect(KubernetesLauncher(tmp_path, chosen), spec, on_line)

    return run


@pytest.fixture
def jobs(kubectl: Kubectl, profile: JobProfile) -> Callable[[], dict[str, Any]]:
    """Return a function that lists the PyTorchJobs by name."""

    def read() -> dict[str, Any]:
        listed = json.loads(kubectl("get", "pytorchjobs", "-n", profile.namespace, "-o", "json"))
        return {item["metadata"]["name"]: item for item in listed["items"]}

    return read


@pytest.fixture
def pods(kubectl: Kubectl, profile: JobProfile) -> Callable[[str], dict[str, Any]]:
    """Return a function that lists the pods of a job by name."""

    def read(job: str) -> dict[str, Any]:
        label = f"training.kubeflow.org/job-name={job}"
        listed = json.loads(kubectl("get", "pods", "-n", profile.namespace, "-l", label, "-o", "json"))
        return {item["metadata"]["name"]: item for item in listed["items"]}

    return read
