"""A cluster that KUBECONFIG names, and namespaces of it that enforce restricted pod security."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Kubectl = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = "KUBECONFIG names no cluster" if not os.environ.get("KUBECONFIG") else None
    missing = missing or (None if shutil.which("kubectl") else "kubectl is not on the PATH")
    for item in items:
        if missing and item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """Runs kubectl, without this project's own code, and gives its output."""

    def run(*arguments: str, stdin: str | None = None, check: bool = True, timeout_s: float = 120) -> str:
        done = subprocess.run(
            ["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=timeout_s
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def restricted_namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace that refuses every pod that is not restricted; gone after the module's tests."""
    name = f"llava-av-test-{uuid.uuid4().hex[:8]}"
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    namespace["metadata"]["labels"] = label
    kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
