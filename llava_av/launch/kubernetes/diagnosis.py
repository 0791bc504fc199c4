"""Explanation of a pod that does not run or failed, in one clause, from its status and events."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llava_av.launch.kubernetes.client import Object
from llava_av.launch.log_cause import failure_cause, logged_cause
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
        "the registry denies access; check image_pull_secrets",
    ),
    (
        ("InvalidImageName", "couldn't parse image", "invalid reference format"),
        "the name is not a valid image reference",
    ),
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
    """A problem that prevents a pod from running."""

    text: str
    """Clause with the problem and, if known, what to do."""
    lasting: bool
    """True if the problem persists until a user intervenes."""
    waits_for_node: bool = False
    """True if the pod waits for a node with free capacity."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A failed instance of a container."""

    pod: str
    """Name of the pod."""
    key: tuple[str, str, int]
    """Pod UID, container name, and number of earlier restarts."""
    exit_code: int
    """Its exit code; 128 + the signal's number if a signal ended it."""
    reason: str
    """Reason from the cluster, such as OOMKilled."""
    message: str
    """Last lines of the container's log, if the cluster kept them."""
    memory: str
    """Its memory limit."""


def pod_problem(pod: Object) -> Problem | None:
    """Return the problem that a pod's status shows; None if it shows none."""
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
        return Problem(text=f"volume claim {claim['name']!r} does not exist: create it first", lasting=True)
    return Problem(
        text=f"no node has free capacity for it now: {_short(message)}", lasting=False, waits_for_node=True
    )


def _waiting(reason: str, message: str, container: Object) -> Problem | None:
    if reason in _IMAGE_REASONS:
        return _no_image(reason, message, str(container.get("image", "")))
    if reason not in _CONFIG_REASONS:
        return None
    if missing := _missing(message):
        return missing
    if no_key := _NO_KEY.search(message):
        return Problem(text=f"key {no_key['key']} is missing in {no_key['where']}: add it", lasting=True)
    return Problem(text=f"its container cannot be created ({reason}): {_short(message)}", lasting=False)


def _no_image(reason: str, message: str, image: str) -> Problem:
    said = f"{reason} {message}"
    for words, meaning in _IMAGE_LACKING:
        if any(word in said for word in words):
            return Problem(text=f"image {image} cannot be pulled: {meaning}", lasting=True)
    return Problem(text=f"image {image} cannot be pulled yet: {_short(message or reason)}", lasting=False)


def events_problem(events: Iterable[Object]) -> Problem | None:
    """Return the problem with creating pods or mounting volumes that the newest such event shows."""
    newest = sorted(events, key=_event_time, reverse=True)
    for event in newest:
        reason, message = str(event.get("reason", "")), str(event.get("message", ""))
        if reason == "FailedCreatePod" and "already exists" not in message:
            said = _short(message.removeprefix("Error creating: "))
            quota = "exceeded quota" in message
            return Problem(text=f"the cluster rejects its pods: {said}", lasting=not quota)
        if reason == "FailedMount" and (missing := _missing(message)):
            return missing
    return None


def _missing(message: str) -> Problem | None:
    """Return the problem that a Secret or ConfigMap does not exist, if the message says so."""
    found = _MISSING.search(message)
    if found is None:
        return None
    kind = {"secret": "Secret", "configmap": "ConfigMap"}[found["kind"].lower()]
    return Problem(text=f"{kind} {found['name']!r} does not exist: create it first", lasting=True)


def never_fits(pod: Object, nodes: Sequence[Object]) -> str | None:
    """Return why not even an empty node could run a pod; None if one could."""
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
            return f"it requests {what}, and no node has more than {most}"
    requested = ", ".join(f"{name} {amount}" for name, amount in wanted.items())
    return f"no single node has all that it requests ({requested})"


def ended_containers(pod: Object) -> list[Ended]:
    """Return the failed instances of a pod's containers that its status still shows."""
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
    """Return why a job failed.

    Args:
        ended: The container that explains the failure best, if one is known.
        lines: Last lines of the job's log.
        evicted: A pod that was evicted, if that ended the job.
    """
    if evicted is not None:
        status = evicted["status"]
        return f"pod {evicted['metadata']['name']} was evicted: {_short(str(status.get('message', '')))}"
    if ended is not None and ended.reason == "OOMKilled":
        return (
            f"pod {ended.pod} ran out of memory (OOMKilled, limit {ended.memory}); raise the profile's memory"
            " or reduce the batch size"
        )
    lines = [*(ended.message.splitlines() if ended is not None else []), *lines]
    cause = failure_cause(lines, ended.exit_code if ended is not None else 1)
    if any(logged_cause(line) == cause for line in lines):
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
                " another rank stopped, or the network between nodes is broken; NCCL_DEBUG=INFO logs details"
            )
    return None


def container_statuses(pod: Object) -> list[Object]:
    """Return the status of each container, init containers first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _wanted(pod: Object) -> dict[str, str]:
    """Return the requests of the pod's main container, which are no smaller than its init container's."""
    return dict(pod["spec"]["containers"][0].get("resources", {}).get("requests", {}))


def _event_time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])


def _short(text: str) -> str:
    return redact_line(text, _LONGEST).rstrip(" .")
