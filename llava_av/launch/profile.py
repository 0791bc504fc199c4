"""A job profile: where and with what a job runs on a cluster, and nothing that changes its result."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from llava_av.documents import read_document, validated
from llava_av.errors import UserError
from llava_av.frozen import FrozenModel

__all__ = [
    "DEFAULT_CREDENTIALS_SECRET",
    "DEFAULT_SERVICES_CONFIG_MAP",
    "JobProfile",
    "ProfileError",
    "Toleration",
    "is_pinned",
    "load_profile",
    "profile_folder",
    "quantity",
]

_SCALES = {
    **{
        "n": 1e-9,
        "u": 1e-6,
        "m": 1e-3,
        "": 1.0,
        "k": 1e3,
        "M": 1e6,
        "G": 1e9,
        "T": 1e12,
        "P": 1e15,
        "E": 1e18,
    },
    **{"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60},
}
_QUANTITY = re.compile(r"^(?P<number>\d+(\.\d+)?([eE]\d+)?)(?P<scale>[a-zA-Z]*)$")


DEFAULT_SERVICES_CONFIG_MAP = "llava-av-services"
"""ConfigMap that says where S3 and MLflow are."""
DEFAULT_CREDENTIALS_SECRET = "llava-av-credentials"
"""Secret with the credentials of S3 and MLflow."""


class ProfileError(UserError):
    """A profile that is missing, does not parse, or holds a value that is not allowed."""


def is_pinned(image: str) -> bool:
    """Whether the name of an image stands for the same content for ever: it has a digest."""
    return "@sha256:" in image


def quantity(text: str) -> float:
    """A Kubernetes quantity such as `500m`, `8` or `64Gi` as a number of cores, bytes or devices.

    Raises:
        ValueError: not a quantity.
    """
    found = _QUANTITY.match(text)
    if found is None or found["scale"] not in _SCALES:
        raise ValueError(f"{text!r} is no Kubernetes quantity such as 500m, 8 or 64Gi")
    return float(found["number"]) * _SCALES[found["scale"]]


def _checked_quantity(text: str) -> str:
    if quantity(text) <= 0:
        raise ValueError(f"{text!r} has to be above 0")
    return text


_Quantity = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_checked_quantity)]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]


class Toleration(FrozenModel):
    """A taint of nodes that a job's pods may ignore."""

    key: str
    """Key of the taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Whether any value of the taint is tolerated, or `value` alone."""
    value: str | None = None
    """Value of the taint; with `Equal` only."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; null: each."""


class JobProfile(FrozenModel):
    """Where and with what jobs run on a cluster."""

    image: str = Field(min_length=1)
    """Image with llava_av and all that a job imports; best by digest, `name@sha256:…`."""
    namespace: _Name = "llava-av"
    """Namespace of the jobs; it may enforce the restricted pod security standard."""
    nodes: int = Field(default=1, ge=1, le=999)
    """Pods that a job of several processes is spread over."""
    gpus_per_node: int = Field(default=0, ge=0)
    """GPUs of each pod, and its processes; 0 runs on CPU."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name under which nodes offer GPUs."""
    cpu: _Quantity = "1"
    """Cores that each pod reserves. It may use more where a node has some to spare."""
    memory: _Quantity = "4Gi"
    """Memory that each pod reserves and may not exceed, `shared_memory` included."""
    shared_memory: _Quantity = "1Gi"
    """Most that /dev/shm holds, which loaders' workers and NCCL share memory through."""
    scratch_size: _Quantity = "4Gi"
    """Most that /tmp holds: the home folder, and the caches of torch, Triton and matplotlib."""
    work_size: _Quantity = "20Gi"
    """Most that /work holds, unless `work_claim` names a volume: copies of data and checkpoints."""
    work_claim: _Name | None = None
    """Claim of the volume at /work; with several nodes one that many nodes may write."""
    cache_size: _Quantity = "20Gi"
    """Most that the Hugging Face cache holds, unless `cache_claim` names a volume."""
    cache_claim: _Name | None = None
    """Claim of a volume with a Hugging Face cache: base weights that were put there before."""
    extra_resources: dict[str, _Quantity] = Field(default_factory=dict)
    """Further devices of each pod of a group, such as RDMA interfaces, by resource name."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that pods may run on."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that pods ignore, such as those that keep others from GPU nodes."""
    topology_spread_key: str | None = None
    """Node label over whose values pods are spread evenly where possible; null: wherever they fit."""
    priority_class: _Name | None = None
    """PriorityClass of the pods; null: the cluster's default."""
    queue: _Name | None = None
    """Kueue LocalQueue that admits the job; null: the job starts at once."""
    image_pull_secrets: tuple[_Name, ...] = ()
    """Secrets with the credentials of the image's registry."""
    service_account: _Name | None = None
    """ServiceAccount of the pods, for a cloud's identity; no token of it is mounted. Null: the default."""
    ca_config_map: _Name | None = None
    """ConfigMap whose `ca.crt` holds every certificate authority to trust, in PEM; null: the image's."""
    services_config_map: _Name | None = DEFAULT_SERVICES_CONFIG_MAP
    """ConfigMap whose keys become variables: where S3 and MLflow are; null: none."""
    credentials_secret: _Name | None = DEFAULT_CREDENTIALS_SECRET
    """Secret whose keys become variables: credentials of S3 and MLflow; null: none, as with an identity."""
    session_credentials: bool = False
    """Whether the job's own container gets S3 keys for its run alone, made with those of `credentials_secret`
    by the server's STS, and of that Secret only MLflow's login. They hold for `deadline_s` and `grace_s`."""
    environment: dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]] = Field(default_factory=dict)
    """Further variables, such as NCCL's; they replace this project's own settings of the same name."""
    metrics_port: int = Field(default=9401, ge=1024, le=65535)
    """Port at which the pod of the first process answers Prometheus."""
    hub_offline: bool = True
    """Whether Hugging Face libraries may only use what their cache holds."""
    deadline_s: int = Field(default=7 * 24 * 3600, ge=1)
    """Seconds from a job's start, waiting for nodes included, after which the cluster ends it."""
    retries: int = Field(default=3, ge=0)
    """Times that a job's processes are started anew after a failure; training resumes by itself."""
    grace_s: int = Field(default=45, ge=1)
    """Seconds that pods have to end when asked to, above the time that saving a checkpoint takes."""
    kept_s: int = Field(default=24 * 3600, ge=0)
    """Seconds that a finished job stays, with its pods and their logs, for people to look at."""
    patience_s: int = Field(default=3600, ge=0)
    """Seconds that a pod may wait for a node, or for its image while the registry does not answer, before
    the job is an error; time in a Kueue queue is not counted."""
    autoscaled: bool = False
    """Whether nodes are made on demand: then a pod too large for each present node waits, too."""

    @field_validator("session_credentials")
    @classmethod
    def _session_needs_keys(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("credentials_secret", "") is None:
            raise ValueError(
                "needs a Secret with keys that S3 makes session keys from, in credentials_secret"
            )
        return value

    def with_overrides(self, overrides: Mapping[str, Any]) -> "JobProfile":
        """A copy with fields replaced, or one entry of a mapping as in `environment.NCCL_DEBUG`.

        Raises:
            ProfileError: an unknown field or a value that is not allowed, by name.
        """
        changed = _replaced(self.model_dump(), overrides, "profile")
        return validated(JobProfile, changed, where="profile with overrides", error=ProfileError)


def profile_folder() -> Path:
    """The folder of the profiles that come with the code."""
    return Path(__file__).resolve().parent.parent.parent / "k8s" / "profiles"


def load_profile(given: str, overrides: Mapping[str, Any] | None = None) -> JobProfile:
    """Reads a profile by path, by name from the profiles that come with the code, or from JSON text.

    Args:
        given: `cpu`, the path of a YAML file, or JSON text.
        overrides: Fields to replace; see `JobProfile.with_overrides`. A file may leave to them what it lacks.

    Raises:
        ProfileError: no such profile, YAML or JSON that does not parse, or a field that is not allowed.
    """
    document = read_document(given, kind="profile", folder=profile_folder(), error=ProfileError)
    content, where = document.content, document.where
    if not isinstance(content, dict):
        raise ProfileError(f"{where}: not a mapping of fields; see k8s/profiles/cpu.yaml for one")
    changed = _replaced(content, overrides or {}, where)
    return validated(JobProfile, changed, where=where, error=ProfileError)


def _replaced(data: dict[str, Any], overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    replaced = dict(data)
    for path, value in overrides.items():
        field, dot, entry = path.partition(".")
        if field not in JobProfile.model_fields:
            raise ProfileError(f"{where}: there is no field {field!r} to override")
        if not dot:
            replaced[field] = value
            continue
        before = replaced.get(field) or {}
        if not isinstance(before, dict):
            raise ProfileError(f"{where}: {field} has no entries, so {path!r} cannot be overridden")
        replaced[field] = {**before, entry: value}
    return replaced
