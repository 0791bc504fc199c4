"""Tests of the chart on a real cluster: helm test, permissions, upgrades and uninstallation."""

import base64
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llava_av.launch.kubernetes.manifest_text import manifest_yaml
from llava_av.storage import ObjectStore, StoreError
from tests.charts.chart import PROFILES, render
from tests.cluster.conftest import Kubectl
from tests.cluster.services import READY_S, RELEASE, Services, chart_values, helm, image, install

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

# API groups that a cluster without Kueue does not have.
UNKNOWN_GROUPS = ("kueue.x-k8s.io",)
CRD = "crd/pytorchjobs.kubeflow.org"
WEBHOOK = "validatingwebhookconfiguration/validator.training-operator.kubeflow.org"
OPERATOR = ("-n", "kubeflow", "deployment/training-operator")
LISTED = "all,pvc,secret,configmap,serviceaccount,role,rolebinding,networkpolicy,pdb,ingress,cronjob"


def secrets(kubectl: Kubectl, namespace: str) -> dict[str, Any]:
    """Return the values of the chart's Secrets."""
    listed = json.loads(
        kubectl("-n", namespace, "get", "secrets", "-l", "app.kubernetes.io/name=llava-av", "-o", "json")
    )
    return {one["metadata"]["name"]: one.get("data", {}) for one in listed["items"]}


def left(kubectl: Kubectl, namespace: str) -> set[str]:
    """Return the objects of the release that exist and are not being deleted."""
    label = f"app.kubernetes.io/instance={RELEASE}"
    listed = json.loads(kubectl("-n", namespace, "get", LISTED, "-l", label, "-o", "json"))["items"]
    return {
        f"{one['kind']}/{one['metadata']['name']}"
        for one in listed
        if "deletionTimestamp" not in one["metadata"]
    }


def eventually(found: Callable[[], object], wanted: object, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (now := found()) != wanted:
        assert time.monotonic() < deadline, f"still {now} after {within_s} s, not {wanted}"
        time.sleep(1)


def status_of(url: str, headers: dict[str, str]) -> int:
    """Return the status of MLflow's answer to a search for experiments."""
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/experiments/search", b'{"max_results": 1}', headers
    )
    try:
        return int(urllib.request.urlopen(request, timeout=60).status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("profile", PROFILES)
def test_server_accepts_every_profile(kubectl: Kubectl, restricted_namespace: str, profile: str) -> None:
    found = [
        one
        for one in render(profile=profile, namespace=restricted_namespace)
        if not one["apiVersion"].startswith(UNKNOWN_GROUPS)
    ]
    # The API server rejects pods without their account, which a dry run does not create.
    accounts = manifest_yaml([one for one in found if one["kind"] == "ServiceAccount"])
    kubectl("apply", "-f", "-", stdin=accounts)
    try:
        done = kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=manifest_yaml(found))
    finally:
        kubectl("delete", "-f", "-", stdin=accounts)
    assert done.count("(server dry run)") == len(found)


def test_helm_test_is_green(services: Services) -> None:
    output = helm("test", RELEASE, "-n", services.namespace, "--timeout", f"{READY_S}s")
    assert output.count("Phase:          Succeeded") == 2, output


def test_mlflow_checks_users_and_host_names(services: Services) -> None:
    environment = services.environment()
    url, user = environment["MLFLOW_TRACKING_URI"], environment["MLFLOW_TRACKING_USERNAME"]
    pair = base64.b64encode(f"{user}:{environment['MLFLOW_TRACKING_PASSWORD']}".encode()).decode()
    known = {"Authorization": f"Basic {pair}"}
    assert status_of(url, {}) == 401
    assert status_of(url, {"Authorization": "Basic " + base64.b64encode(b"admin:password").decode()}) == 401
    assert status_of(url, known) == 200
    assert status_of(url, {**known, "Host": "mlflow.attacker.example"}) == 403


def test_jobs_can_use_only_their_buckets(services: Services) -> None:
    services.store("calm").put_bytes("key", b"value")
    with pytest.raises(StoreError, match=r"Access Denied|AccessDenied|refuse"):
        ObjectStore.from_env(services.environment("another")).ensure_bucket()


def test_upgrade_keeps_passwords_and_data(kubectl: Kubectl, services: Services) -> None:
    before = secrets(kubectl, services.namespace)
    assert before["llava-av-servers"]["postgresql-password"]
    services.store().put_bytes("kept", b"value")
    install(services.namespace, {**chart_values(), "team": {"quota": {"pods": "60"}}})
    assert secrets(kubectl, services.namespace) == before
    # Rendering without the cluster, as Argo CD does, must not change them either.
    rendered = [one for one in render(namespace=services.namespace) if one["kind"] == "Secret"]
    options = ("--server-side", "--force-conflicts", "--field-manager=argocd-controller")
    kubectl("apply", *options, "-f", "-", stdin=manifest_yaml(rendered))
    assert secrets(kubectl, services.namespace) == before
    helm("rollback", RELEASE, "1", "-n", services.namespace, "--wait", "--timeout", f"{READY_S}s")
    assert secrets(kubectl, services.namespace) == before
    assert services.store().get_bytes("kept") == b"value"


def test_uninstalling_leaves_nothing(kubectl: Kubectl, services: Services) -> None:
    helm("uninstall", RELEASE, "-n", services.namespace, "--wait")
    eventually(lambda: left(kubectl, services.namespace), set(), 120)


def test_helm_3_installs_and_reuses_kept_data(kubectl: Kubectl, services: Services) -> None:
    if shutil.which("helm3") is None:
        pytest.skip("helm3 is not on the PATH; .ci/charts installs it")
    values = {**chart_values(), "keepData": True}
    install(services.namespace, values, program="helm3")
    kept = secrets(kubectl, services.namespace)
    again = Services(kubectl=kubectl, namespace=services.namespace)
    again.store().put_bytes("kept", b"value")
    helm("uninstall", RELEASE, "-n", services.namespace, "--wait", program="helm3")
    volumes = {f"PersistentVolumeClaim/{RELEASE}-{part}" for part in ("s3", "postgresql")}
    passwords = {f"Secret/{RELEASE}-{part}" for part in ("servers", "credentials", "job-credentials")}
    eventually(lambda: left(kubectl, services.namespace), volumes | passwords, 120)
    install(services.namespace, values, program="helm3")
    assert secrets(kubectl, services.namespace) == kept
    assert Services(kubectl=kubectl, namespace=services.namespace).store().get_bytes("kept") == b"value"
    helm("uninstall", RELEASE, "-n", services.namespace, "--wait", program="helm3")


def test_seaweedfs_instead_of_minio_and_artifacts_without_mlflow(restricted_namespace: str) -> None:
    values = {**chart_values(), "s3": {"flavour": "seaweedfs"}, "mlflow": {"artifacts": "direct"}}
    images = {**chart_values()["images"], "seaweedfs": {"repository": image("seaweedfs"), "tag": ""}}
    install(restricted_namespace, {**values, "images": images})
    output = helm("test", RELEASE, "-n", restricted_namespace, "--timeout", f"{READY_S}s")
    helm("uninstall", RELEASE, "-n", restricted_namespace, "--wait")
    assert output.count("Phase:          Succeeded") == 2, output


def test_operator_of_the_cluster_is_not_replaced(restricted_namespace: str) -> None:
    refused = helm(*_operator_install(restricted_namespace), stdin=json.dumps(chart_values()), check=False)
    assert "already has the PyTorchJob CRD" in refused


def test_operator_of_the_chart_runs_jobs(
    kubectl: Kubectl, restricted_namespace: str, no_operator: None
) -> None:
    helm(*_operator_install(restricted_namespace), stdin=json.dumps(chart_values()))
    try:
        output = helm("test", RELEASE, "-n", restricted_namespace, "--timeout", f"{READY_S}s")
        assert output.count("Phase:          Succeeded") == 2, output
    finally:
        helm("uninstall", RELEASE, "-n", restricted_namespace, "--wait")
    assert not kubectl("get", CRD, WEBHOOK, "--ignore-not-found", "-o", "name")


def _operator_install(namespace: str) -> tuple[str, ...]:
    profile = str(PROFILES["kind"])
    wait = ("--wait", "--wait-for-jobs", f"--timeout={READY_S}s", "--set", "trainingOperator.enabled=true")
    chart = str(PROFILES["kind"].parent.parent)
    return ("install", RELEASE, chart, "-n", namespace, "-f", profile, "-f", "-", *wait)


@pytest.fixture
def no_operator(kubectl: Kubectl) -> Iterator[None]:
    """Remove the cluster's training operator, and restore it after the test."""
    busy = json.loads(kubectl("get", "pytorchjobs", "-A", "-o", "json"))["items"]
    foreign = {one["metadata"]["namespace"] for one in busy} - set(_test_namespaces(kubectl))
    if foreign:
        pytest.skip(f"deleting the CRD would delete other PyTorchJobs: {', '.join(sorted(foreign))}")
    saved = json.loads(kubectl("get", CRD, WEBHOOK, "-o", "json"))
    for one in saved["items"]:
        one.pop("status", None)
        for field in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
            one["metadata"].pop(field, None)
    kubectl("scale", *OPERATOR, "--replicas=0")
    kubectl("delete", CRD, WEBHOOK)
    try:
        yield
    finally:
        kubectl("create", "-f", "-", stdin=json.dumps(saved))
        kubectl("scale", *OPERATOR, "--replicas=1")
        kubectl("rollout", "status", *OPERATOR, "--timeout=120s", timeout_s=150)


def _test_namespaces(kubectl: Kubectl) -> list[str]:
    listed = kubectl("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}").split()
    return [name for name in listed if name.startswith("llava-av-test-")]
