"""Pod template of a job: containers, variables, volumes and limits under restricted pod security."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llava_av.launch.api import JobSpec
from llava_av.launch.profile import JobProfile, quantity
from llava_av.processes import METRICS_PORT_VARIABLE
from llava_av.processes.variables import DATA_CACHE_MB, DATA_CACHE_VARIABLE
from llava_av.provenance.environment import IMAGE_VARIABLE
from llava_av.storage.access_keys import SHARED_FILE_VARIABLE

__all__ = [
    "CA_FOLDER",
    "CONTAINER",
    "INIT_CONTAINERS",
    "TRUST_VARIABLES",
    "WORK_FOLDER",
    "pod_template",
]

CONTAINER = "pytorch"  # the name that the training operator expects
_PREPARE_CONTAINER, _SESSION_CONTAINER = "prepare", "session"
INIT_CONTAINERS = (_PREPARE_CONTAINER, _SESSION_CONTAINER)
"""Containers that may run before the job's own container, in this order."""
WORK_FOLDER = "/work"
"""Mount point of the work volume in each pod of a job."""
_USER = 1000
_PORT = 23456
CA_FOLDER = "/etc/llava-av/ca"
"""Folder with the trusted certificate authorities in each container, as `ca.crt`."""
TRUST_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
"""Variables that tell libraries the path of that file."""
_CACHE_FOLDER = "/cache"
_SESSION_FOLDER = "/etc/llava-av/session"
_SESSION_FILE = f"{_SESSION_FOLDER}/credentials"
# The only keys of its Secret that a job gets if it has session keys for S3.
_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# The job can write to the working folder and HOME: code from there must not see the Secret's keys.
_SAFE_PYTHON = {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}
_JOIN_MARGIN_S = 600
_AGENT_MARGIN_S = 5
_STORE_S = 600


def pod_template(spec: JobSpec, profile: JobProfile, *, leader: str, per_node: int) -> dict[str, Any]:
    """Return the spec of each pod of a job.

    Args:
        spec: The job.
        profile: Its resources and image.
        leader: Name of the pod with rank zero.
        per_node: Processes per pod.
    """
    pod: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Otherwise the job is process 1 of its container, which ignores a SIGTERM that it does not handle.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": profile.grace_s,
        # The operator checks the job's own deadline only when one of its pods changes.
        "activeDeadlineSeconds": profile.deadline_s,
        "containers": [_container(spec, profile, leader, per_node)],
        "volumes": _volumes(profile),
    }
    first = _init_containers(spec, profile, per_node)
    if first:
        pod["initContainers"] = first
    return {**pod, **_placement(profile)}


def _placement(profile: JobProfile) -> dict[str, Any]:
    """Return the scheduling fields that the profile sets."""
    fields: dict[str, Any] = {
        "nodeSelector": dict(profile.node_selector),
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in profile.tolerations],
        "priorityClassName": profile.priority_class,
        "imagePullSecrets": [{"name": name} for name in profile.image_pull_secrets],
        "serviceAccountName": profile.service_account,
    }
    return {name: value for name, value in fields.items() if value}


def _container(spec: JobSpec, profile: JobProfile, leader: str, per_node: int) -> dict[str, Any]:
    program = ["-m", spec.module, *spec.arguments]
    variables = {**_variables(profile, per_node), METRICS_PORT_VARIABLE: str(profile.metrics_port)}
    pod_fields: dict[str, str] = {}
    if spec.processes is not None:
        # torchrun reads its options from PET_*; after -- it does not parse the job's arguments as its own.
        program = ["-m", "torch.distributed.run", "-m", "--", spec.module, *spec.arguments]
        variables |= _group_variables(profile, leader)
        # Ranks follow the addresses that nodes register; the operator's Services resolve pod names.
        pod_fields = {"PET_LOCAL_ADDR": "metadata.name"}
    session = profile.session_credentials
    variables |= {SHARED_FILE_VARIABLE: _SESSION_FILE} if session else {}
    return {
        "name": CONTAINER,
        **_common(profile, {**variables, **profile.environment}, pod_fields, session=session),
        "command": ["python", *map(_literal, program)],
        "ports": [
            {"name": "pytorchjob-port", "containerPort": _PORT},
            {"name": "metrics", "containerPort": profile.metrics_port},
        ],
        "resources": _resources(spec, profile),
    }


def _init_containers(spec: JobSpec, profile: JobProfile, per_node: int) -> list[dict[str, Any]]:
    # The operator sets PYTHONUNBUFFERED, but not for init containers.
    settings = {"PYTHONUNBUFFERED": "1", **_variables(profile, per_node)}
    variables = {**settings, **profile.environment}
    variables |= _SAFE_PYTHON if profile.session_credentials else {}

    def container(name: str, command: Sequence[str]) -> dict[str, Any]:
        return {
            "name": name,
            **_common(profile, variables, {}),
            "command": [_literal(word) for word in command],
            "resources": {"requests": _requests(profile), "limits": {"memory": profile.memory}},
        }

    found = [container(_PREPARE_CONTAINER, spec.prepare)] if spec.prepare else []
    if profile.session_credentials:
        options = ("--file", _SESSION_FILE, "--seconds", str(profile.deadline_s + profile.grace_s))
        command = ("python", "-m", "llava_av.launch.session_keys", *spec.arguments, *options)
        session = container(_SESSION_CONTAINER, command)
        session["volumeMounts"].append({"name": "session", "mountPath": _SESSION_FOLDER})
        found.append(session)
    return found


def _common(
    profile: JobProfile, variables: Mapping[str, str], pod_fields: Mapping[str, str], *, session: bool = False
) -> dict[str, Any]:
    """Return the fields that all containers of a pod share; with `session`, S3 keys come from the session."""
    fields = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in pod_fields.items()
    ]
    values = [{"name": name, "value": _literal(variables[name])} for name in sorted(variables)]
    secret = profile.credentials_secret
    login = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}}}
        for key in (_LOGIN if session else ())
        if key not in variables
    ]
    sources = [
        *([{"configMapRef": {"name": profile.services_config_map}}] if profile.services_config_map else []),
        *([{"secretRef": {"name": secret}}] if secret and not session else []),
    ]
    mounts = [{"name": "session", "mountPath": _SESSION_FOLDER, "readOnly": True}] if session else []
    return {
        "image": profile.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [*fields, *values, *login],
        **({"envFrom": sources} if sources else {}),
        "volumeMounts": [*_mounts(profile), *mounts],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        # Keeps a failed container's last lines in its status, even if the log is deleted with the pod.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _literal(value: str) -> str:
    """Escape a value so that Kubernetes does not expand `$(NAME)` in it."""
    return value.replace("$(", "$$(")


def _variables(profile: JobProfile, per_node: int) -> dict[str, str]:
    """Return the variables of every container; all folders that libraries write to are on volumes."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if profile.hub_offline else {}
    # Otherwise a pod without a GPU would see all GPUs of a node with the NVIDIA runtime.
    cpu_only = {} if profile.gpus_per_node else {"DS_ACCELERATOR": "cpu", "NVIDIA_VISIBLE_DEVICES": "void"}
    certificates = f"{CA_FOLDER}/ca.crt"
    return {
        IMAGE_VARIABLE: profile.image,
        "HOME": "/tmp/home",
        "TMPDIR": "/tmp",
        "XDG_CACHE_HOME": "/tmp/cache",
        "TORCH_HOME": "/tmp/cache/torch",
        "TORCH_EXTENSIONS_DIR": "/tmp/cache/torch-extensions",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/cache/inductor",
        "TRITON_CACHE_DIR": "/tmp/cache/triton",
        "TRITON_HOME": "/tmp/cache",
        "CUDA_CACHE_PATH": "/tmp/cache/cuda",
        "NUMBA_CACHE_DIR": "/tmp/cache/numba",
        "MPLCONFIGDIR": "/tmp/cache/matplotlib",
        "HF_HOME": f"{_CACHE_FOLDER}/huggingface",
        "OMP_NUM_THREADS": str(max(1, math.floor(quantity(profile.cpu) / per_node))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Keeps libraries' output out of the log.
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "DO_NOT_TRACK": "1",
        **offline,
        **cpu_only,
        **({} if profile.work_claim else {DATA_CACHE_VARIABLE: str(_data_cache_mb(profile))}),
        **(dict.fromkeys(TRUST_VARIABLES, certificates) if profile.ca_config_map else {}),
    }


def _data_cache_mb(profile: JobProfile) -> int:
    # The node's disk, from which a job would derive the size, may be larger than the volume.
    return max(1, min(DATA_CACHE_MB, int(quantity(profile.work_size) / 2 / 10**6)))


def _group_variables(profile: JobProfile, leader: str) -> dict[str, str]:
    """Return torchrun's rendezvous settings; the operator adds PET_NNODES and PET_NPROC_PER_NODE."""
    join_s = profile.patience_s + _JOIN_MARGIN_S
    nccl = {"NCCL_SOCKET_IFNAME": "eth0", "NCCL_DEBUG": "WARN"} if profile.gpus_per_node else {}
    return {
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"{leader}:{_PORT}",
        "PET_RDZV_ID": leader,
        # The first pod to start waits for the last, and for the leader's name to resolve.
        "PET_RDZV_CONF": f"join_timeout={join_s},read_timeout={_STORE_S}",
        # The container restarts instead, without leftovers of the failed processes.
        "PET_MAX_RESTARTS": "0",
        # Torchrun passes SIGTERM on, and kills its processes shortly before the pod is killed.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, profile.grace_s - _AGENT_MARGIN_S)),
        "GLOO_SOCKET_IFNAME": "eth0",
        **nccl,
    }


def _requests(profile: JobProfile) -> dict[str, str]:
    return {"cpu": profile.cpu, "memory": profile.memory}


def _resources(spec: JobSpec, profile: JobProfile) -> dict[str, Any]:
    """Return requests and limits; there is no CPU limit, which would only throttle jobs on idle nodes."""
    group = spec.processes is not None
    gpus = profile.gpus_per_node if group else min(1, profile.gpus_per_node)
    devices = {
        **({profile.gpu_resource: str(gpus)} if gpus else {}),
        **(profile.extra_resources if group else {}),
    }
    return {
        "requests": {**_requests(profile), **devices},
        "limits": {"memory": profile.memory, **devices},
    }


def _volumes(profile: JobProfile) -> list[dict[str, Any]]:
    volumes = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": profile.shared_memory}},
        {"name": "tmp", "emptyDir": {"sizeLimit": profile.scratch_size}},
        _volume("work", profile.work_claim, profile.work_size),
        _volume("cache", profile.cache_claim, profile.cache_size),
    ]
    if profile.ca_config_map:
        volumes.append({"name": "ca", "configMap": {"name": profile.ca_config_map}})
    if profile.session_credentials:
        volumes.append({"name": "session", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    return volumes


def _volume(name: str, claim: str | None, size: str) -> dict[str, Any]:
    if claim is not None:
        return {"name": name, "persistentVolumeClaim": {"claimName": claim}}
    return {"name": name, "emptyDir": {"sizeLimit": size}}


def _mounts(profile: JobProfile) -> list[dict[str, Any]]:
    folders = {"shm": "/dev/shm", "tmp": "/tmp", "work": WORK_FOLDER, "cache": _CACHE_FOLDER}
    mounts: list[dict[str, Any]] = [{"name": name, "mountPath": path} for name, path in folders.items()]
    if profile.ca_config_map:
        mounts.append({"name": "ca", "mountPath": CA_FOLDER, "readOnly": True})
    return mounts
