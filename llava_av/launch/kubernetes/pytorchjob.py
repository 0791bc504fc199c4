"""Manifest of a PyTorchJob.

A single process becomes a PyTorchJob with one Master. A process group becomes a PyTorchJob with Workers only:
torchrun joins them by a c10d rendezvous at worker 0. If there were a Master too, the training operator would
give each Worker an init container without a security context, which a namespace with restricted pod security
rejects, and would count the job as succeeded as soon as the Master succeeds. In addition, c10d notices when a
killed pod comes back, while the Master's static rendezvous reads the state that the previous pod left.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from llava_av.launch.api import JobSpec, LaunchError
from llava_av.launch.kubernetes.pod_template import pod_template
from llava_av.launch.profile import JobProfile

__all__ = [
    "CONTENT_LABEL",
    "GROUP",
    "PIPELINE_LABEL",
    "PLURAL",
    "RUN_LABEL",
    "VERSION",
    "build_job",
    "job_name",
    "leader_pod",
]

GROUP, VERSION, PLURAL = "kubeflow.org", "v1", "pytorchjobs"
RUN_LABEL, CONTENT_LABEL = "llava-av/run", "llava-av/content"
PIPELINE_LABEL = "llava-av/pipeline-run"
"""Label with the ID of the pipeline run that created a job."""
_MANAGER = "llava-av"
_HASH_DIGITS = 10
# Pod names add `-worker-999`, and the name of a Service has at most 63 characters.
_NAME_MAX = 63 - len("-worker-999") - 1 - _HASH_DIGITS


def job_name(spec: JobSpec) -> str:
    """Return the name of a job, which is equal for equal specs.

    Raises:
        LaunchError: `spec.name` cannot be part of a Kubernetes name.
    """
    allowed = spec.name.replace("-", "")
    if not (allowed.isascii() and allowed.isalnum() and spec.name.islower() and spec.name[0].isalpha()):
        raise LaunchError(
            f"job name {spec.name!r} must be lower-case letters, digits and -, and start with a letter"
        )
    if len(spec.name) > _NAME_MAX:
        raise LaunchError(
            f"job name {spec.name!r} must have at most {_NAME_MAX} characters, got {len(spec.name)}"
        )
    content: dict[str, Any] = {
        "run": spec.run,
        "name": spec.name,
        "module": spec.module,
        "arguments": list(spec.arguments),
        "processes": spec.processes,
        "environment": {},  # keeps the names of earlier versions, in which a job had variables
        "prepare": list(spec.prepare),
    }
    return f"{spec.name}-{_digest(content)[:_HASH_DIGITS]}"


def leader_pod(spec: JobSpec, name: str) -> str:
    """Return the name of the pod with rank zero, whose log is the job's log."""
    return f"{name}-{_replica_type(spec).lower()}-0"


def build_job(
    spec: JobSpec,
    profile: JobProfile,
    *,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    log_variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Build the PyTorchJob of a spec and a profile, ready for the API server or for YAML.

    Args:
        spec: The job.
        profile: Its resources and image.
        name: Name of the job; None for `job_name`.
        labels: Additional labels of the job and its pods that do not change what it does.
        log_variables: Variables that affect only what its processes log.

    Raises:
        LaunchError: The processes cannot be distributed over the profile's nodes and GPUs.
    """
    name = name or job_name(spec)
    own_labels = _labels(spec)
    template = pod_template(spec, profile, leader=leader_pod(spec, name), per_node=_per_node(spec, profile))
    nodes = 1 if spec.processes is None else profile.nodes
    replica: dict[str, Any] = {
        "replicas": nodes,
        # Without retries a failed pod must not restart until the operator notices it.
        "restartPolicy": "OnFailure" if profile.retries else "Never",
        "template": {"metadata": {"labels": own_labels}, "spec": _spread(template, profile, name)},
    }
    job: dict[str, Any] = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PyTorchJob",
        "metadata": {
            "name": name,
            "namespace": profile.namespace,
            "labels": {**own_labels, **_queue(profile)},
        },
        "spec": {
            **({} if spec.processes is None else {"nprocPerNode": str(_per_node(spec, profile))}),
            "runPolicy": _run_policy(profile, nodes),
            "pytorchReplicaSpecs": {_replica_type(spec): replica},
        },
    }
    content = {CONTENT_LABEL: _digest(job)[:32]}
    job["metadata"]["labels"] |= {**content, **(labels or {})}
    replica["template"]["metadata"]["labels"] = {**own_labels, **(labels or {})}
    _add_variables(template, log_variables or {})
    return job


def _add_variables(pod: dict[str, Any], variables: Mapping[str, str]) -> None:
    """Set variables of all containers that neither the spec nor the profile sets."""
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        known = {one["name"] for one in container["env"]}
        container["env"] += [
            {"name": name, "value": value} for name, value in variables.items() if name not in known
        ]


def _per_node(spec: JobSpec, profile: JobProfile) -> int:
    """Return the number of processes per node."""
    if spec.processes is None:
        return 1
    per_node, rest = divmod(spec.processes, profile.nodes)
    if rest or not per_node:
        raise LaunchError(
            f"{spec.name}: processes={spec.processes} must be a multiple of the profile's"
            f" nodes={profile.nodes}"
        )
    if profile.gpus_per_node and per_node != profile.gpus_per_node:
        raise LaunchError(
            f"{spec.name}: processes={spec.processes} on nodes={profile.nodes} is {per_node} per node, but"
            f" gpus_per_node={profile.gpus_per_node} and each process needs its own GPU: set"
            f" processes={profile.nodes * profile.gpus_per_node} or gpus_per_node={per_node}"
        )
    return per_node


def _replica_type(spec: JobSpec) -> str:
    return "Master" if spec.processes is None else "Worker"


def _run_policy(profile: JobProfile, nodes: int) -> dict[str, Any]:
    return {
        # Keeps the logs of pods that ended; pods that wait for lost peers are deleted.
        "cleanPodPolicy": "Running",
        "activeDeadlineSeconds": profile.deadline_s,
        "ttlSecondsAfterFinished": profile.kept_s,
        # The operator sums the restarts of all pods, and one failure restarts each of them once.
        "backoffLimit": profile.retries * nodes + 1 if profile.retries else 0,
    }


def _labels(spec: JobSpec) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "llava-av",
        "app.kubernetes.io/component": spec.name,
        "app.kubernetes.io/managed-by": _MANAGER,
        RUN_LABEL: spec.run,
    }


def _queue(profile: JobProfile) -> dict[str, str]:
    return {"kueue.x-k8s.io/queue-name": profile.queue} if profile.queue else {}


def _spread(template: dict[str, Any], profile: JobProfile, name: str) -> dict[str, Any]:
    if profile.topology_spread_key is None:
        return template
    constraint = {
        "maxSkew": 1,
        "topologyKey": profile.topology_spread_key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"training.kubeflow.org/job-name": name}},
    }
    return {**template, "topologySpreadConstraints": [constraint]}


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
