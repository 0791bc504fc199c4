"""Manifests in k8s/: jobs equal those of `llava-av submit`, and policies select existing labels."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from llava_av.launch import JobSpec, load_profile
from llava_av.launch.kubernetes.pytorchjob import build_job
from tests.commands import ROOT

EXAMPLES = ("dryrun", "gpu-8", "gpu-4x8")
JOBS = {
    "training": JobSpec(name="training", module="llava_av.training", processes=2, prepare=("true",)),
    "evaluation": JobSpec(name="evaluation", module="llava_av.evaluation"),
    "ingest": JobSpec(name="ingest", module="llava_av.workflows.ingest", processes=2),
}
SERVICES = ("s3", "mlflow", "postgresql")
CHART = ROOT / "tests/charts/golden/kind.yaml"


def test_manifests_are_what_their_recipes_and_profiles_make(tmp_path: Path) -> None:
    environment = {**os.environ, "LLAVA_AV": str(Path(sys.executable).parent / "llava-av")}
    subprocess.run([str(ROOT / "k8s" / "generate"), str(tmp_path)], check=True, env=environment)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.yaml")}
    assert set(made) == {Path(name) / "pytorchjob.yaml" for name in EXAMPLES}
    for path, text in made.items():
        assert (ROOT / "k8s" / path).read_text() == text, f"k8s/{path} is out of step; run k8s/generate"


def test_every_example_can_be_applied_by_itself() -> None:
    for name in EXAMPLES:
        folder = ROOT / "k8s" / name
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        job = yaml.safe_load((folder / "pytorchjob.yaml").read_text())
        assert job["metadata"]["namespace"] == kustomization["namespace"]
        images = {one["image"].partition(":")[0] for one in _containers(job)}
        assert images == {image["name"] for image in kustomization["images"]}


def _containers(job: dict) -> list[dict]:
    pods = [replica["template"]["spec"] for replica in job["spec"]["pytorchReplicaSpecs"].values()]
    return [one for pod in pods for one in (*pod["containers"], *pod.get("initContainers", []))]


@dataclass(frozen=True)
class Pod:
    """A pod as network policies see it."""

    labels: dict[str, str]
    ports: Mapping[str, int] = field(default_factory=dict)
    namespace: str = "llava-av"


KUBEFLOW = Pod({"app": "pipeline-step"}, namespace="kubeflow")
STRANGER = Pod({"app.kubernetes.io/managed-by": "llava-av"}, namespace="elsewhere")
PROMETHEUS = Pod({"app": "prometheus"}, namespace="monitoring")
DNS = Pod({"k8s-app": "kube-dns"}, {"dns": 53}, namespace="kube-system")


@cache
def pods() -> dict[str, Pod]:
    """Return the pods of each kind of job, of the chart's services, and of its setup jobs."""
    profile = load_profile("cpu")
    found = {}
    for name, spec in JOBS.items():
        replicas = build_job(spec, profile)["spec"]["pytorchReplicaSpecs"].values()
        found[name] = _pod(next(iter(replicas))["template"])
    for template in _chart_templates():
        pod = _pod(template)
        found[pod.labels["app.kubernetes.io/component"]] = pod
    return found


def _pod(template: dict[str, Any]) -> Pod:
    ports = [port for one in template["spec"]["containers"] for port in one.get("ports", [])]
    return Pod(template["metadata"]["labels"], {port["name"]: port["containerPort"] for port in ports})


def _chart_templates() -> Iterator[dict[str, Any]]:
    for one in yaml.safe_load_all(CHART.read_text()):
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield one["spec"]["template"]


@cache
def policies(folder: str) -> list[dict[str, Any]]:
    kustomization = yaml.safe_load((ROOT / "k8s" / folder / "kustomization.yaml").read_text())
    assert kustomization["namespace"] == load_profile("cpu").namespace
    files = [ROOT / "k8s" / folder / name for name in kustomization["resources"]]
    return [policy for file in files for policy in yaml.safe_load_all(file.read_text())]


def allowed(source: Pod, target: Pod, port: int, folders: tuple[str, ...] = ("network",)) -> bool:
    """Whether the policies of these folders let `source` open a connection."""
    specs = [policy["spec"] for folder in folders for policy in policies(folder)]
    sides = ((source, "Egress", "to", target), (target, "Ingress", "from", source))
    # Names of ports are the target's, on whichever side a rule has them.
    ports = {port, *(name for name, number in target.ports.items() if number == port)}
    return all(_side_allows(specs, pod, kind, word, peer, ports) for pod, kind, word, peer in sides)


def _side_allows(
    specs: list[dict[str, Any]], pod: Pod, kind: str, word: str, peer: Pod, ports: set[int | str]
) -> bool:
    if pod.namespace != "llava-av":
        return True
    about = [spec for spec in specs if _selects(spec["podSelector"], pod.labels)]
    assert any(kind in spec["policyTypes"] for spec in about), "every pod is denied what is not allowed"
    rules = [rule for spec in about for rule in spec.get(kind.lower(), [])]
    return any(
        (word not in rule or any(_is_peer(one, peer) for one in rule[word]))
        and ("ports" not in rule or not ports.isdisjoint(one["port"] for one in rule["ports"]))
        for rule in rules
    )


def _is_peer(peer: dict[str, Any], pod: Pod) -> bool:
    if "namespaceSelector" in peer:
        name = {"kubernetes.io/metadata.name": pod.namespace}
        return _selects(peer["namespaceSelector"], name) and "podSelector" not in peer
    return pod.namespace == "llava-av" and _selects(peer["podSelector"], pod.labels)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


@pytest.mark.parametrize("job", JOBS)
def test_policies_let_jobs_reach_each_other_and_their_services(job: str) -> None:
    there = pods()
    for other in JOBS:
        assert all(allowed(there[job], there[other], port) for port in (23456, 1024, 65535))
    assert allowed(there[job], DNS, 53)
    assert allowed(there[job], there["s3"], 9000)
    assert allowed(there[job], there["mlflow"], 5000)


@pytest.mark.parametrize("service", ["s3", "mlflow"])
def test_policies_let_pipeline_steps_reach_the_services(service: str) -> None:
    there = pods()
    (port,) = there[service].ports.values()
    assert allowed(KUBEFLOW, there[service], port)


def test_policies_let_mlflow_keep_what_it_is_told() -> None:
    there = pods()
    assert allowed(there["mlflow"], there["s3"], 9000)
    assert allowed(there["mlflow"], there["postgresql"], 5432)
    assert allowed(there["mlflow"], DNS, 53)


def test_policies_let_the_chart_prepare_its_services() -> None:
    there = pods()
    for service in SERVICES:
        (port,) = there[service].ports.values()
        assert allowed(there["bootstrap"], there[service], port)


@pytest.mark.parametrize("job", JOBS)
def test_prometheus_is_let_in_by_the_folder_for_it_alone(job: str) -> None:
    there, with_it = pods(), ("network", "network/monitoring")
    metrics = there[job].ports["metrics"]
    for name, port in ((job, metrics), ("s3", 9000)):
        assert not allowed(PROMETHEUS, there[name], port)
        assert allowed(PROMETHEUS, there[name], port, with_it)
        assert not allowed(Pod(PROMETHEUS.labels, namespace="elsewhere"), there[name], port, with_it)
    assert not allowed(PROMETHEUS, there[job], 23456, with_it)
    assert not allowed(PROMETHEUS, there["mlflow"], 5000, with_it)
    assert not allowed(PROMETHEUS, there["postgresql"], 5432, with_it)


def test_policies_deny_everything_else() -> None:
    there = pods()
    for name, pod in there.items():
        assert not any(allowed(STRANGER, pod, port) for port in (23456, 9000, 5000, 5432)), name
        # The chart's own clients ask the API server, which no selector chooses.
        assert allowed(pod, STRANGER, 443) == (name == "bootstrap"), name
    for job in JOBS:
        assert not allowed(KUBEFLOW, there[job], 23456)
        assert not allowed(there[job], there["postgresql"], 5432)
        assert not allowed(there[job], there["s3"], 9001)
        assert not any(allowed(there[service], there[job], 23456) for service in SERVICES)


def test_every_selector_and_port_of_the_policies_is_of_something_that_is_there() -> None:
    there = pods()

    def ports(selector: dict[str, Any]) -> set[int]:
        selected = [pod for pod in there.values() if _selects(selector, pod.labels)]
        assert selected, selector
        return {port for pod in selected for port in pod.ports.values()}

    for policy in policies("network"):
        spec = policy["spec"]
        mine = ports(spec["podSelector"])
        for rule in spec.get("ingress", []):
            assert {one["port"] for one in rule.get("ports", [])} <= mine, policy["metadata"]["name"]
        for word, rule in (("from", spec.get("ingress", [])), ("to", spec.get("egress", []))):
            for one in (peer for each in rule for peer in each.get(word, []) if "podSelector" in peer):
                ports(one["podSelector"])


def test_access_is_for_the_namespace_of_the_profiles() -> None:
    kustomization = yaml.safe_load((ROOT / "k8s/access/kustomization.yaml").read_text())
    (namespace,) = yaml.safe_load_all((ROOT / "k8s/access/namespace.yaml").read_text())
    names = {load_profile(name).namespace for name in ("cpu", "gpu-8", "gpu-4x8")}
    assert names == {kustomization["namespace"], namespace["metadata"]["name"]}
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_kind_up_installs_the_versions_that_the_project_is_locked_to() -> None:
    script = (ROOT / "k8s/kind/up").read_text()
    lock = (ROOT / "requirements/lock.txt").read_text()
    for package, pin in (
        ("kubeflow-training", r"trainer\.git/\S+\?ref=v"),
        ("kfp", r"PIPELINES_REF='\?ref="),
    ):
        locked, installed = (
            re.search(rf"{start}([\d.]+)", text, re.MULTILINE)
            for start, text in ((f"^{package}==", lock), (pin, script))
        )
        assert locked
        assert installed
        assert installed[1] == locked[1], package


# Stand-ins for kind and kubectl: what kind has is a file, and what both were asked to delete another.
KIND = """#!/bin/sh
case "$1 $2" in
"get clusters") cat "$STATE/clusters" ;;
"create cluster") [ ! -e "$STATE/full" ] && echo "$4" >>"$STATE/clusters" ;;
"delete cluster") echo "cluster $4" >>"$STATE/deleted" ;;
esac
"""
KUBECTL = """#!/bin/sh
case "$1 $2" in
"get namespace") echo namespace/llava-av ;;
"delete namespace") echo "namespace $3" >>"$STATE/deleted" ;;
"apply --server-side") exit 3 ;; # kind-up's next step behind the cluster
esac
"""


@dataclass(frozen=True)
class Laptop:
    """A copy of the scripts, with stand-ins for what they call."""

    folder: Path

    def has(self, *clusters: str) -> None:
        (self.folder / "clusters").write_text("".join(f"{name}\n" for name in clusters))

    def deleted(self) -> list[str]:
        """Return the objects deleted since the last call."""
        file = self.folder / "deleted"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def run(self, script: str, cluster: str = "llava-av") -> tuple[int, str]:
        """Run a script of k8s/kind; return its exit status and output."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        environment = {"PATH": path, "STATE": str(self.folder), "CLUSTER": cluster}
        done = subprocess.run(
            [str(self.folder / "k8s" / "kind" / script)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    shutil.copytree(ROOT / "k8s" / "kind", tmp_path / "k8s" / "kind")
    (tmp_path / "bin").mkdir()
    for name, text in (
        ("kind", KIND),
        ("kubectl", KUBECTL),
        ("docker", "#!/bin/sh\n"),
        ("helm", "#!/bin/sh\n"),
    ):
        program = tmp_path / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    made = Laptop(tmp_path)
    made.has()
    return made


def test_kind_down_deletes_the_cluster_that_kind_up_made(laptop: Laptop) -> None:
    for cluster in ("one", "two"):
        assert laptop.run("up", cluster)[0] == 3
    assert laptop.run("down", "one")[0] == 0
    assert laptop.deleted() == ["cluster one"]
    assert laptop.run("down", "two")[0] == 0
    assert laptop.deleted() == ["cluster two"]
    assert not (laptop.folder / ".kind").exists()


def test_kind_down_leaves_a_cluster_that_was_there_before(laptop: Laptop) -> None:
    laptop.has("llava-av")
    assert laptop.run("up")[0] == 3
    status, output = laptop.run("down")
    assert status == 0
    assert laptop.deleted() == ["namespace llava-av"]
    assert output.splitlines()[-1].startswith("kept: the kind cluster llava-av")


def test_kind_down_without_a_cluster_removes_nothing(laptop: Laptop) -> None:
    assert laptop.run("down") == (1, "llava-av: kind has no cluster llava-av; nothing was removed\n")
    assert not laptop.deleted()


def test_a_cluster_that_kind_could_not_make_is_not_kind_downs_later(laptop: Laptop) -> None:
    (laptop.folder / "full").touch()
    status, output = laptop.run("up")
    assert (status, "kind created no cluster" in output.splitlines()[-1]) == (1, True)
    laptop.has("llava-av")
    assert laptop.run("down")[0] == 0
    assert laptop.deleted() == ["namespace llava-av"]
