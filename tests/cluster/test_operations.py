"""What a platform engineer does with an installed chart: watch it, save it, lose it and restore it."""

import json
import secrets
from typing import Any

import pytest

from llava_av.storage import ObjectStore
from tests.cluster.conftest import Kubectl
from tests.cluster.services import RELEASE, Services, chart_values, helm, install
from tests.exporters import METRICS, scraped

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

KEPT_SECRETS = ("llava-av-credentials", "llava-av-servers")


@pytest.fixture(scope="module")
def values(kubectl: Kubectl, restricted_namespace: str) -> dict[str, Any]:
    """Values with a place for backups: a bucket of another server, here that of another namespace."""
    return {**chart_values(("mlflow", "pipeline")), "monitoring": {"enabled": True, "operator": False}}


@pytest.fixture(scope="module")
def watched(kubectl: Kubectl, restricted_namespace: str, values: dict[str, Any]) -> Services:
    install(restricted_namespace, values)
    return Services(kubectl=kubectl, namespace=restricted_namespace)
