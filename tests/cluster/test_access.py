"""Tests of the Role in k8s/access: it has only the verbs that launching needs, and suffices for jobs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_av.launch import JobProfile, JobSpec, KubernetesLauncher, LaunchError
from tests.cluster.conftest import Kubectl, grant_access
from tests.cluster.job_output import run_and_collect

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

LAUNCHER = "llava-av-launcher"
JOBS = "pytorchjobs.kubeflow.org"
ALLOWED = (
    *((verb, JOBS) for verb in ("get", "list", "watch", "create", "delete")),
    *((verb, "pods") for verb in ("get", "list", "watch")),
    ("get", "pods/log"),
    ("list", "events"),
)
REFUSED = (
    *((verb, JOBS) for verb in ("patch", "update", "deletecollection")),
    ("patch", f"{JOBS}/status"),
    *((verb, "pods") for verb in ("create", "delete", "patch")),
    ("create", "pods/exec"),
    ("create", "pods/portforward"),
    *((verb, "secrets") for verb in ("get", "list", "create")),
    ("get", "configmaps"),
    ("create", "events"),
    ("create", "serviceaccounts/token"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("create", "jobs.batch"),
    ("list", "nodes"),
)

Launch = Callable[..., Any]


@pytest.fixture(scope="module")
def namespace(kubectl: Kubectl, restricted_namespace: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Apply k8s/access to a namespace as a user would."""
    grant_access(kubectl, restricted_namespace, tmp_path_factory.mktemp("access") / "overlay")
    return restricted_namespace


@pytest.fixture(scope="module")
def can(kubectl: Kubectl) -> Callable[..., bool]:
    """Return a function that checks a permission of an account in a namespace."""

    def ask(verb: str, resource: str, *, account: str, namespace: str) -> bool:
        user = f"--as=system:serviceaccount:{account}"
        # kubectl warns if a namespace is given for a resource of the whole cluster.
        where = [] if resource == "nodes" else ["-n", namespace]
        resource, _, sub = resource.partition("/")
        part = [f"--subresource={sub}"] if sub else []
        answer = kubectl("auth", "can-i", verb, resource, *part, user, *where, check=False).strip()
        assert answer.split()[0] in ("yes", "no"), answer
        return answer.startswith("yes")

    return ask


@pytest.fixture
def launch(
    kubectl: Kubectl, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Launch]:
    """Return a function that makes this process a ServiceAccount and runs small jobs as it."""

    def as_account(account: str) -> Launch:
        config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        token = kubectl("create", "token", account, "-n", namespace).strip()
        config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        return run

    def run(name: str, **changes: Any) -> Any:
        profile = JobProfile(
            image=os.environ.get("LLAVA_AV_SMALL_IMAGE", "python:3.11-slim-bookworm"),
            namespace=namespace,
            cpu="50m",
            memory="64Mi",
            shared_memory="16Mi",
            services_config_map=None,
            credentials_secret=None,
            retries=0,
        ).with_overrides(changes)
        launcher = KubernetesLauncher(tmp_path, profile)
        return run_and_collect(launcher, JobSpec(name=name, run="test", module="this"))

    return as_account


@pytest.mark.parametrize(("verb", "resource"), ALLOWED)
@pytest.mark.parametrize("account", ["{namespace}:llava-av-launcher", "kubeflow:pipeline-runner"])
def test_launchers_may(account: str, verb: str, resource: str, can: Any, namespace: str) -> None:
    assert can(verb, resource, account=account.format(namespace=namespace), namespace=namespace)


@pytest.mark.parametrize(("verb", "resource"), REFUSED)
def test_launcher_may_not(verb: str, resource: str, can: Any, namespace: str) -> None:
    assert not can(verb, resource, account=f"{namespace}:{LAUNCHER}", namespace=namespace)


@pytest.mark.parametrize("other", ["default", "kubeflow"])
def test_launcher_may_nothing_elsewhere(other: str, can: Any, namespace: str) -> None:
    for verb, resource in ALLOWED:
        assert not can(verb, resource, account=f"{namespace}:{LAUNCHER}", namespace=other)


def test_accounts_of_jobs_may_nothing(can: Any, namespace: str) -> None:
    for verb, resource in ALLOWED:
        assert not can(verb, resource, account=f"{namespace}:default", namespace=namespace)


def test_the_role_suffices_for_a_job(launch: Callable[[str], Launch]) -> None:
    assert len(launch(LAUNCHER)("by-the-role")) == 21


def test_the_role_suffices_to_report_a_missing_secret(launch: Callable[[str], Launch]) -> None:
    with pytest.raises(LaunchError, match="Secret 'absent' does not exist"):
        launch(LAUNCHER)("no-secret", credentials_secret="absent")


def test_without_the_role_the_error_names_the_permission(launch: Callable[[str], Launch]) -> None:
    with pytest.raises(LaunchError, match=r'not allowed: .*cannot create resource "pytorchjobs"') as told:
        launch("default")("no-role")
    assert "\n" not in str(told.value)
