"""Fixtures for the cluster of KUBECONFIG, with namespaces that enforce restricted pod security."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.services import Services, chart_values, install
from tests.commands import ROOT

Kubectl = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = "KUBECONFIG names no cluster" if not os.environ.get("KUBECONFIG") else None
    missing = missing or (None if shutil.which("kubectl") else "kubectl is not on the PATH")
    for item in items:
        if missing and item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """Return a function that runs kubectl and returns its output, without this project's code."""

    def run(*arguments: str, stdin: str | None = None, check: bool = True, timeout_s: float = 120) -> str:
        done = subprocess.run(
            ["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=timeout_s
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def restricted_namespace(kubectl: Kubectl) -> Iterator[str]:
    """Create a namespace that enforces the restricted standard, and delete it after the module's tests."""
    name = f"llava-av-test-{uuid.uuid4().hex[:8]}"
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    namespace["metadata"]["labels"] = label
    kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def services(kubectl: Kubectl, restricted_namespace: str) -> Services:
    """Install the chart in the module's namespace."""
    install(restricted_namespace, chart_values())
    return Services(kubectl=kubectl, namespace=restricted_namespace)


def grant_access(kubectl: Kubectl, namespace: str, folder: Path) -> None:
    """Apply k8s/access to a namespace as a user would, with an overlay in a new folder."""
    folder.mkdir()
    base = os.path.relpath(ROOT / "k8s" / "access", folder.resolve())
    overlay = {"namespace": namespace, "resources": [base]}
    (folder / "kustomization.yaml").write_text(json.dumps(overlay))
    kubectl("apply", "-k", str(folder))
