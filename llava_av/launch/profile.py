"""Job profiles: resources, image and scheduling of jobs on a cluster; no field changes a result."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from llava_av.documents import Document, read_document, validate
from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.named_files import FileKind, named_folders

__all__ = [
    "DEFAULT_CREDENTIALS_SECRET",
    "DEFAULT_SERVICES_CONFIG_MAP",
    "JobProfile",
    "ProfileError",
    "Toleration",
    "is_pinned",
    "load_profile",
    "quantity",
    "read_profile",
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
"""ConfigMap with the addresses of S3 and MLflow."""
DEFAULT_CREDENTIALS_SECRET = "llava-av-credentials"
"""Secret with the credentials of S3 and MLflow."""


class ProfileError(UserError):
    """A profile that is missing, does not parse, or has a value that is not allowed."""


def is_pinned(image: str) -> bool:
    """Tell whether an image is named by digest, so that its content never changes."""
    return "@sha256:" in image


def quantity(text: str) -> float:
    """Convert a Kubernetes quantity such as `500m`, `8` or `64Gi` to a number of cores, bytes or devices.

    Raises:
        ValueError: The text is not a quantity.
    """
    found = _QUANTITY.match(text)
    if found is None or found["scale"] not in _SCALES:
        raise ValueError(f"{text!r} must be a Kubernetes quantity such as 500m, 8 or 64Gi")
    return float(found["number"]) * _SCALES[found["scale"]]


def _checked_quantity(text: str) -> str:
    if quantity(text) <= 0:
        raise ValueError(f"{text!r} must be > 0")
    return text


_Quantity = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_checked_quantity)]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]


class Toleration(FrozenModel):
    """A node taint that a job's pods tolerate."""

    key: str
    """Key of the taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """`Exists` tolerates any value of the taint, `Equal` only `value`."""
    value: str | None = None
    """Value of the taint; with `Equal` only."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; null: all."""


class JobProfile(FrozenModel):
    """Resources, image and scheduling of jobs on a cluster."""

    image: str = Field(min_length=1)
    """Image with llava_av and everything that a job imports; preferably by digest, `name@sha256:…`."""
    namespace: _Name = "llava-av"
    """Namespace of the jobs; it may enforce restricted pod security."""
    nodes: int = Field(default=1, ge=1, le=999)
    """Pods that the processes of a job are distributed over."""
    gpus_per_node: int = Field(default=0, ge=0)
    """GPUs per pod, which is also its number of processes; 0 runs on CPU."""
    gpu_resource: str = "nvidia.com/gpu"
    """Resource name of the nodes' GPUs."""
    cpu: _Quantity = "1"
    """CPU cores that each pod reserves; it may use idle cores of the node in addition."""
    memory: _Quantity = "4Gi"
    """Memory that each pod reserves and cannot exceed, including `shared_memory`."""
    shared_memory: _Quantity = "1Gi"
    """Size limit of /dev/shm, which loader workers and NCCL use for shared memory."""
    scratch_size: _Quantity = "4Gi"
    """Size limit of /tmp: the home folder and the caches of torch, Triton and matplotlib."""
    work_size: _Quantity = "20Gi"
    """Size limit of /work, which holds copies of data and checkpoints; unused with `work_claim`.

    The data cache takes up to half of it, but at most 8 GB unless `environment` sets LLAVA_AV_DATA_CACHE_MB.
    """
    work_claim: _Name | None = None
    """PersistentVolumeClaim of /work; with several nodes its access mode must be ReadWriteMany."""
    cache_size: _Quantity = "20Gi"
    """Size limit of the Hugging Face cache; unused with `cache_claim`."""
    cache_claim: _Name | None = None
    """PersistentVolumeClaim of a Hugging Face cache that already holds base weights."""
    extra_resources: dict[str, _Quantity] = Field(default_factory=dict)
    """Additional devices per pod of a process group, such as RDMA interfaces, by resource name."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that pods may run on."""
    tolerations: tuple[Toleration, ...] = ()
    """Node taints that pods tolerate, such as those that reserve GPU nodes."""
    topology_spread_key: str | None = None
    """Node label over whose values pods are spread evenly if possible; null: no spreading."""
    priority_class: _Name | None = None
    """PriorityClass of the pods; null: the cluster's default."""
    queue: _Name | None = None
    """Kueue LocalQueue that admits the job; null: the job starts immediately."""
    image_pull_secrets: tuple[_Name, ...] = ()
    """Secrets with the credentials of the image's registry."""
    service_account: _Name | None = None
    """ServiceAccount of the pods, for a cloud identity; its token is not mounted. Null: the default."""
    ca_config_map: _Name | None = None
    """ConfigMap whose `ca.crt` holds all trusted certificate authorities in PEM; null: the image's."""
    services_config_map: _Name | None = DEFAULT_SERVICES_CONFIG_MAP
    """ConfigMap whose keys become variables: addresses of S3 and MLflow; null: none."""
    credentials_secret: _Name | None = DEFAULT_CREDENTIALS_SECRET
    """Secret whose keys become variables: credentials of S3 and MLflow; null: none, for a cloud identity."""
    session_credentials: bool = False
    """Give the job's own container only the MLflow login of `credentials_secret` and S3 keys for its run,
    which the server's STS issues from the Secret's keys. The keys expire after `deadline_s` + `grace_s`."""
    environment: dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]] = Field(default_factory=dict)
    """Additional variables, such as NCCL's; they override this project's settings of the same name."""
    metrics_port: int = Field(default=9401, ge=1024, le=65535)
    """Port at which the pod of rank zero serves Prometheus metrics."""
    hub_offline: bool = True
    """Restrict Hugging Face libraries to their cache."""
    deadline_s: int = Field(default=7 * 24 * 3600, ge=1)
    """Seconds after a job's start, including its wait for nodes, until the cluster ends it."""
    retries: int = Field(default=3, ge=0)
    """Number of restarts of a job's processes after failures; training resumes automatically."""
    grace_s: int = Field(default=45, ge=1)
    """Seconds between SIGTERM and SIGKILL; must exceed the time of two steps and a checkpoint."""
    kept_s: int = Field(default=24 * 3600, ge=0)
    """Seconds that a finished job is kept with its pods and their logs."""
    patience_s: int = Field(default=3600, ge=0)
    """Seconds that a pod may wait for a node, or for its image while the registry does not answer, before
    the job fails; time in a Kueue queue does not count."""
    autoscaled: bool = False
    """True if the cluster creates nodes on demand, so that a pod that fits no existing node waits."""

    @field_validator("session_credentials")
    @classmethod
    def _session_needs_keys(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("credentials_secret", "") is None:
            raise ValueError(
                "requires credentials_secret, the Secret with the keys from which S3 issues session keys"
            )
        return value

    def with_overrides(self, overrides: Mapping[str, object]) -> "JobProfile":
        """Return a copy with fields replaced, or single entries such as `environment.NCCL_DEBUG`.

        Raises:
            ProfileError: A field is unknown or a value is not allowed.
        """
        changed = _replaced(self.model_dump(), overrides, "profile")
        return validate(JobProfile, changed, where="profile with overrides", error=ProfileError)


def load_profile(given: str, overrides: Mapping[str, object] | None = None) -> JobProfile:
    """Read a profile by path, by name from the project or the package, or from JSON text.

    Args:
        given: A name such as `cpu`, the path of a YAML file, or JSON text.
        overrides: Fields to replace; see `JobProfile.with_overrides`. They may supply required fields that
            the file lacks.

    Raises:
        ProfileError: The profile does not exist, does not parse, or has a field that is not allowed.
    """
    document = read_profile(given)
    content, where = document.content, document.where
    if not isinstance(content, dict):
        raise ProfileError(
            f"{where}: must be a mapping of fields, got {type(content).__name__}; see k8s/profiles/cpu.yaml"
        )
    changed = _replaced(content, overrides or {}, where)
    return validate(JobProfile, changed, where=where, error=ProfileError)


def read_profile(given: str) -> Document:
    """Read a profile without validating it; see `load_profile`.

    Raises:
        ProfileError: The profile does not exist or does not parse.
    """
    return read_document(given, kind="profile", folders=named_folders(FileKind.PROFILES), error=ProfileError)


def _replaced(data: dict[str, object], overrides: Mapping[str, object], where: str) -> dict[str, object]:
    replaced = dict(data)
    for path, value in overrides.items():
        field, dot, entry = path.partition(".")
        if field not in JobProfile.model_fields:
            known = ", ".join(JobProfile.model_fields)
            raise ProfileError(f"{where}: unknown field {field!r}; the fields are {known}")
        if not dot:
            replaced[field] = value
            continue
        before = replaced.get(field) or {}
        if not isinstance(before, dict):
            raise ProfileError(
                f"{where}: cannot override {path!r}, since {field} has no entries; override {field}"
            )
        replaced[field] = {**before, entry: value}
    return replaced
