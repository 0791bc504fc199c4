"""Tests of one-line errors for an unreachable cluster, a missing CRD and missing permissions."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llava_av.launch import JobProfile, JobSpec, KubernetesLauncher, LaunchError
from llava_av.launch.kubernetes import client as cluster_module
from llava_av.launch.kubernetes import job_progress
from llava_av.launch.kubernetes.pytorchjob import job_name
from tests.cluster.job_output import run_and_collect

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

Kubectl = Callable[..., str]
JOBS = {"apiGroups": ["kubeflow.org"], "resources": ["pytorchjobs"]}
READ = ["get", "list", "watch"]
EVERYTHING = [
    {**JOBS, "verbs": [*READ, "create", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": READ},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
]


@pytest.fixture
def allowed(
    kubectl: Kubectl, restricted_namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[dict[str, Any]]], None]:
    """Return a function that makes this process a ServiceAccount with only the given rules."""

    def allow(rules: list[dict[str, Any]]) -> None:
        named = {"name": f"user-{tmp_path.name[-8:].strip('_').lower()}", "namespace": restricted_namespace}
        named["name"] = "".join(letter if letter.isalnum() else "-" for letter in named["name"])
        subject = {"kind": "ServiceAccount", **named}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": named["name"]}
        rbac = "rbac.authorization.k8s.io/v1"
        objects: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
            {"apiVersion": rbac, "kind": "Role", "metadata": named, "rules": rules},
            {
                "apiVersion": rbac,
                "kind": "RoleBinding",
                "metadata": named,
                "subjects": [subject],
                "roleRef": role,
            },
        ]
        kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        token = kubectl("create", "token", named["name"], "-n", restricted_namespace).strip()
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, token)))

    return allow


def kubeconfig(folder: Path, token: str, server: str | None = None) -> Path:
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    if server is not None:
        for cluster in config["clusters"]:
            cluster["cluster"]["server"] = server
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def run(restricted_namespace: str, tmp_path: Path) -> Callable[..., Any]:
    def run(
        name: str, on_line: Callable[[str], None] | None = None, statement: str = "", **changes: Any
    ) -> Any:
        small = {
            "image": os.environ.get("LLAVA_AV_SMALL_IMAGE", "python:3.11-slim-bookworm"),
            "cpu": "50m",
            "memory": "64Mi",
            "shared_memory": "16Mi",
            "services_config_map": None,
            "credentials_secret": None,
            "namespace": restricted_namespace,
            "retries": 0,
        }
        launcher = KubernetesLauncher(tmp_path, JobProfile(**{**small, **changes}))
        arguments = ("-n1", "-r1", statement)
        module = "timeit" if statement else "this"
        spec = JobSpec(name=name, run="test", module=module, arguments=arguments if statement else ())
        return run_and_collect(launcher, spec, on_line)

    return run


def test_documented_verbs_are_enough(allowed: Any, run: Any) -> None:
    allowed(EVERYTHING)
    assert len(run("enough")) == 21


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("create", 'cannot create resource "pytorchjobs" in API group "kubeflow.org"'),
        ("list", 'cannot list resource "pytorchjobs"'),
    ],
)
def test_missing_verb_on_jobs_is_named(
    verb: str,
    said: str,
    allowed: Any,
    run: Any,
    kubectl: Kubectl,
    restricted_namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allowed([{**JOBS, "verbs": [one for one in [*READ, "create", "delete"] if one != verb]}, *EVERYTHING[1:]])
    with pytest.raises(LaunchError, match=f"not allowed: .*{said}.*ask for a Role with this verb") as told:
        run(f"no-{verb}")
    assert "\n" not in str(told.value)
    monkeypatch.undo()
    deadline = time.monotonic() + 60
    while f"/no-{verb}-" in kubectl("get", "pytorchjobs", "-n", restricted_namespace, "-o", "name"):
        assert time.monotonic() < deadline, "the job was not deleted"
        time.sleep(0.2)


def test_without_permission_for_logs_and_events_a_job_still_runs(allowed: Any, run: Any) -> None:
    allowed(EVERYTHING[:2])
    seen: list[str] = []
    run("no-logs", on_line=seen.append)
    assert any('cannot get resource "pods/log"' in line for line in seen)
    with pytest.raises(LaunchError, match="Secret 'absent' does not exist"):
        run("no-events", credentials_secret="absent")


def test_without_permission_for_nodes_the_scheduler_is_quoted(allowed: Any, run: Any) -> None:
    allowed(EVERYTHING)
    with pytest.raises(LaunchError, match=r"waited \d+ s .* 1 Insufficient nvidia.com/gpu"):
        run("no-nodes", gpus_per_node=8, patience_s=4)


def test_wrong_credentials(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "wrong")))
    with pytest.raises(LaunchError, match="rejects the credentials in KUBECONFIG"):
        run("unknown")


def test_no_cluster_answers(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server = f"https://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "token", server)))
        with pytest.raises(LaunchError, match=rf"cannot reach the cluster at {server} \(.*refused\)"):
            run("nobody")


def test_no_kubeconfig(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(LaunchError, match=r"no cluster: .*; set KUBECONFIG \(now .*/absent\)"):
        run("nothing")


def test_cluster_without_the_training_operator(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Simulates an API server without the CRD, which other tests need.
    monkeypatch.setattr(cluster_module, "_JOBS", cluster_module._JOBS.replace("pytorchjobs", "absentjobs"))
    with pytest.raises(
        LaunchError, match=r"does not know PyTorchJobs: install the Kubeflow training operator"
    ):
        run("no-kind")


def test_job_goes_on_when_its_launcher_loses_its_permission(
    allowed: Any,
    run: Any,
    kubectl: Kubectl,
    restricted_namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster_module, "_WATCH_S", 1)
    monkeypatch.setattr(job_progress, "_EARLY_S", 0.0)
    administrator = os.environ["KUBECONFIG"]
    allowed(EVERYTHING)

    def revoke(line: str) -> None:
        if line == "begin":
            arguments = ("rolebindings", "--all", "-n", restricted_namespace, "--kubeconfig", administrator)
            kubectl("delete", *arguments)

    statement = "import time; print('begin', flush=True); time.sleep(20)"
    with pytest.raises(LaunchError, match=r"not allowed: .*; the job still runs") as told:
        run("revoked", on_line=revoke, statement=statement)
    assert "\n" not in str(told.value)
    monkeypatch.undo()
    lines = run("revoked", statement=statement)
    assert lines[0] == "begin"


def test_watch_survives_connections_that_break(
    run: Any, tmp_path: Path, restricted_namespace: str, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_WATCH_S", 1)
    monkeypatch.setattr(cluster_module, "_SILENT_S", 0.6)
    spec = JobSpec(
        name="broken",
        run="test",
        module="timeit",
        arguments=(
            "-n1",
            "-r1",
            "import time\nfor n in range(12): print('line', n, flush=True); time.sleep(1)",
        ),
    )
    profile = JobProfile(
        image=os.environ.get("LLAVA_AV_SMALL_IMAGE", "python:3.11-slim-bookworm"),
        namespace=restricted_namespace,
        cpu="50m",
        memory="64Mi",
        services_config_map=None,
        credentials_secret=None,
    )
    seen: list[str] = []
    launcher = KubernetesLauncher(tmp_path, profile)
    thread = threading.Thread(target=lambda: launcher.run(spec, on_line=seen.append))
    thread.start()
    thread.join(120)
    assert [line for line in seen if line.startswith("line")] == [f"line {n}" for n in range(12)]
    assert job_name(spec) in kubectl("get", "pytorchjobs", "-n", restricted_namespace, "-o", "name")
