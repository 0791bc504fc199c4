"""Why a pod does not run, or no longer runs, in one clause: from its status and events as plain dicts."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llava_av.launch.failure_cause import find_cause
from llava_av.launch.kubernetes.client import Object
from llava_av.launch.profile import quantity
from llava_av.redaction import redact_line

__all__ = [
    "Ended",
    "Problem",
    "container_statuses",
    "ended_containers",
    "ending_cause",
    "events_problem",
    "never_fits",
    "pod_problem",
]

_IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_IMAGE_LACKING = (
    (("not found", "manifest unknown", "does not exist"), "the registry has no such image"),
    (
        ("unauthorized", "authorization failed", "denied", "forbidden", "401"),
        "the registry does not let the node have it; check image_pull_secrets",
    ),
    (("InvalidImageName", "couldn't parse image", "invalid reference format"), "this is no image name"),
)
_CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_MISSING = re.compile(r"(?P<kind>secret|configmap)s? \"(?P<name>[^\"]+)\" not found", re.IGNORECASE)
_NO_KEY = re.compile(r"couldn't find key (?P<key>\S+) in (?P<where>.+)")
_NO_CLAIM = re.compile(r"persistentvolumeclaim \"(?P<name>[^\"]+)\" not found")
_NCCL = re.compile(r"OpType=(?P<operation>\w+).*Timeout\(ms\)=(?P<ms>\d+)")
_NCCL_RANK = re.compile(r"\[Rank (?P<rank>\d+)\]", re.IGNORECASE)
_DEVICE = "nvidia.com/"
_LONGEST = 400


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What keeps a pod from running."""

    text: str
    """Clause that says what, and what to do where that is known."""
    lasting: bool
    """Whether it stays as it is unless someone changes something."""
    waits_for_node: bool = False
    """Whether the pod waits for a node with room for it."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One end of one container."""

    pod: str
    """Name of the pod."""
    key: tuple[str, str, int]
    """uid of the pod, container, and how often the container had been started anew before."""
    exit_code: int
    """Its exit code; 128 + the signal's number if a signal ended it."""
    reason: str
    """The cluster's word for it, such as OOMKilled."""
    message: str
    """Last lines of its log, where the cluster kept them."""
    memory: str
    """Its limit of memory."""


def pod_problem(pod: Object) -> Problem | None:
    """What keeps `pod` from running, by its status alone; None while nothing is known to."""
    status = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _unscheduled(str(condition.get("message", "no reason is given")))
    for container in container_statuses(pod):
        waiting = container["state"].get("waiting")
        if waiting:
            problem = _waiting(str(waiting.get("reason", "")), str(waiting.get("message", "")), container)
            if problem is not None:
                return problem
    return None


def _unscheduled(message: str) -> Problem:
    claim = _NO_CLAIM.search(message)
    if claim:
        return Problem(text=f"there is no volume claim {claim['name']!r}; create it first", lasting=True)
    return Problem(text=f"no node can take it now: {_short(message)}", lasting=False, waits_for_node=True)


def _waiting(reason: str, message: str, container: Object) -> Problem | None:
    if reason in _IMAGE_REASONS:
        return _no_image(reason, message, str(container.get("image", "")))
    if reason not in _CONFIG_REASONS:
        return None
    if missing := _missing(message):
        return missing
    if no_key := _NO_KEY.search(message):
        return Problem(text=f"there is no key {no_key['key']} in {no_key['where']}", lasting=True)
    return Problem(text=f"its container cannot be made ({reason}): {_short(message)}", lasting=False)


def _no_image(reason: str, message: str, image: str) -> Problem:
    said = f"{reason} {message}"
    for words, meaning in _IMAGE_LACKING:
        if any(word in said for word in words):
            return Problem(text=f"image {image} cannot be pulled: {meaning}", lasting=True)
    return Problem(text=f"image {image} cannot be pulled yet: {_short(message or reason)}", lasting=False)


def events_problem(events: Iterable[Object]) -> Problem | None:
    """What keeps pods from being made or volumes from being mounted, by the newest event that says so."""
    newest = sorted(events, key=_event_time, reverse=True)
    for event in newest:
        reason, message = str(event.get("reason", "")), str(event.get("message", ""))
        if reason == "FailedCreatePod" and "already exists" not in message:
            said = _short(message.removeprefix("Error creating: "))
            quota = "exceeded quota" in message
            return Problem(text=f"the cluster refuses its pods: {said}", lasting=not quota)
        if reason == "FailedMount" and (missing := _missing(message)):
            return missing
    return None


def _missing(message: str) -> Problem | None:
    """That a Secret or ConfigMap is not there, if `message` says so."""
    found = _MISSING.search(message)
    if found is None:
        return None
    kind = {"secret": "Secret", "configmap": "ConfigMap"}[found["kind"].lower()]
    return Problem(text=f"there is no {kind} {found['name']!r}; create it first", lasting=True)


def never_fits(pod: Object, nodes: Sequence[Object]) -> str | None:
    """Why none of `nodes` could take `pod` even if it were empty; None if one could."""
    selector = pod["spec"].get("nodeSelector") or {}
    chosen = [node for node in nodes if selector.items() <= node["metadata"].get("labels", {}).items()]
    if not chosen:
        labels = ", ".join(f"{key}={value}" for key, value in selector.items())
        return f"no node has the labels {labels}" if selector else "the cluster has no nodes"
    wanted = _wanted(pod)
    offers = [node["status"].get("allocatable", {}) for node in chosen]
    if any(
        all(quantity(offer.get(name, "0")) >= quantity(wanted[name]) for name in wanted) for offer in offers
    ):
        return None
    for name, amount in wanted.items():
        most = max((str(offer.get(name, "0")) for offer in offers), key=quantity)
        if quantity(most) < quantity(amount):
            what = f"{amount} GPUs ({name})" if name.startswith(_DEVICE) else f"{name} {amount}"
            return f"it asks for {what}, and no node has more than {most}"
    asked = ", ".join(f"{name} {amount}" for name, amount in wanted.items())
    return f"no single node has all that it asks for ({asked})"


def ended_containers(pod: Object) -> list[Ended]:
    """Each container's last end that was a failure."""
    limits = {
        container["name"]: str(container.get("resources", {}).get("limits", {}).get("memory", "none"))
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    }
    ends = []
    for status in container_statuses(pod):
        restarts = int(status["restartCount"])
        for field, instance in (("lastState", restarts - 1), ("state", restarts)):
            end = status.get(field, {}).get("terminated")
            if end is not None and int(end["exitCode"]) != 0:
                ends.append(_ended(pod, status["name"], instance, end, limits.get(status["name"], "none")))
    return ends


def _ended(pod: Object, container: str, instance: int, end: Object, memory: str) -> Ended:
    return Ended(
        pod=pod["metadata"]["name"],
        key=(pod["metadata"]["uid"], container, instance),
        exit_code=int(end["exitCode"]),
        reason=str(end.get("reason", "")),
        message=str(end.get("message", "")),
        memory=memory,
    )


def ending_cause(ended: Ended | None, lines: Sequence[str], evicted: Object | None = None) -> str:
    """Why a job failed: by the first container that did, its log's lines, and a pod that was evicted."""
    if evicted is not None:
        status = evicted["status"]
        return f"pod {evicted['metadata']['name']} was evicted: {_short(str(status.get('message', '')))}"
    if ended is not None and ended.reason == "OOMKilled":
        return (
            f"pod {ended.pod} ran out of memory (OOMKilled, limit {ended.memory}); raise the profile's memory"
            " or make batches smaller"
        )
    lines = [*(ended.message.splitlines() if ended is not None else []), *lines]
    cause = find_cause(lines, ended.exit_code if ended is not None else 1)
    if any(line.rstrip().endswith(f"error: {cause}") for line in lines):
        return cause
    return _nccl_timeout(lines) or _with_code(cause, ended)


def _with_code(cause: str, ended: Ended | None) -> str:
    if ended is None or f"exit code {ended.exit_code}" in cause:
        return cause
    return f"{cause} (exit code {ended.exit_code} of pod {ended.pod})"


def _nccl_timeout(lines: Iterable[str]) -> str | None:
    for line in lines:
        found = _NCCL.search(line) if "collective operation timeout" in line.lower() else None
        if found:
            rank = _NCCL_RANK.search(line)
            of = f" of rank {rank['rank']}" if rank else ""
            return (
                f"NCCL timeout: {found['operation']}{of} had no answer for {int(found['ms']) // 1000} s;"
                " another rank stopped, or the network between nodes is broken (NCCL_DEBUG=INFO says more)"
            )
    return None


def container_statuses(pod: Object) -> list[Object]:
    """What the kubelet says of each container, those that prepare first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _wanted(pod: Object) -> dict[str, str]:
    """What the pod's main container requests; its init container requests no more."""
    return dict(pod["spec"]["containers"][0].get("resources", {}).get("requests", {}))


def _event_time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])


def _short(text: str) -> str:
    return redact_line(text, _LONGEST).rstrip(" .")
