"""Tests that the API server accepts the manifests in k8s/."""

from pathlib import Path

import pytest

from tests.cluster.conftest import Kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = (
    "k8s",
    "k8s/gpu-8",
    "k8s/gpu-4x8",
    "k8s/access",
    "k8s/access/nodes",
    "k8s/network",
    "k8s/network/monitoring",
    "k8s/reaper",
)


@pytest.mark.parametrize("folder", FOLDERS)
def test_server_accepts_rendered_manifests(kubectl: Kubectl, restricted_namespace: str, folder: str) -> None:
    rendered = kubectl("kustomize", str(ROOT / folder))
    assert "namespace: llava-av\n" in rendered
    moved = rendered.replace("namespace: llava-av\n", f"namespace: {restricted_namespace}\n")
    done = kubectl("apply", "--dry-run=server", "-f", "-", stdin=moved)
    assert "(server dry run)" in done
