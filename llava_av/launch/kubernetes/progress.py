"""From what is seen of a job to how it ended: warnings while it waits, and the cause when it cannot run."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from llava_av.launch.api import LaunchError
from llava_av.launch.kubernetes.client import ApiError, Cluster, Object
from llava_av.launch.kubernetes.diagnosis import (
    Ended,
    Problem,
    container_statuses,
    ended_containers,
    ending_cause,
    events_problem,
    never_fits,
    pod_problem,
)
from llava_av.launch.kubernetes.pod_template import INIT_CONTAINERS
from llava_av.launch.kubernetes.watch import Failed, JobSeen, PodGone, PodSeen, Seen
from llava_av.launch.profile import JobProfile

__all__ = ["LostSight", "Outcome", "Progress", "final_condition"]

_CHECK_S = 5.0
_EVENTS_AFTER_S = 5.0
_TAIL_LINES = "200"
_SIGNALLED = (137, 143)
_LATE_S = 30
_EARLY_S = 30.0


class LostSight(LaunchError):
    """The cluster can no longer be asked about a job, which may well go on."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    succeeded: bool
    message: str
    """What the training operator says about it."""


class Progress:
    """Follows one job; raises `LaunchError` as soon as it is known that it cannot run."""

    def __init__(
        self, cluster: Cluster, job: Object, profile: JobProfile, leader: str, say: Callable[[str], None]
    ) -> None:
        """Begin with what is known when the job was made or adopted.

        Args:
            cluster: Where the job is.
            job: The job as it was answered.
            profile: What it was made from.
            leader: Name of the pod whose log is followed.
            say: Called with lines about the job that are not its own.
        """
        self._cluster, self._profile, self._leader, self._say = cluster, profile, leader, say
        self._name, self._uid = job["metadata"]["name"], job["metadata"]["uid"]
        replicas = job["spec"]["pytorchReplicaSpecs"].values()
        self._new = not job.get("status")
        self._expected = sum(int(replica["replicas"]) for replica in replicas)
        self._job, self._pods = job, dict[str, Object]()
        self._said: set[str] = set()
        self._since: dict[str, float] = {}
        self._ends: dict[tuple[str, str, int], Ended] = {}
        self._evicted: dict[str, Object] = {}
        self._tails: dict[str, list[str]] = {}
        self._checked = self._began = time.monotonic()

    def take(self, seen: Seen) -> Outcome | None:
        """Note what was seen; the outcome once there is one.

        Raises:
            LaunchError: the job cannot run, or is gone.
            LostSight: the cluster cannot be asked any more.
        """
        match seen:
            case JobSeen(None):
                raise LaunchError("it was deleted by someone else", transient=True)
            case JobSeen(job) if job is not None:
                return self._take_job(job)
            case PodSeen(pod):
                self._pods[pod["metadata"]["uid"]] = pod
                self._take_pod(pod)
            case PodGone(pod):
                self._pods.pop(pod["metadata"]["uid"], None)
                self._since.pop(pod["metadata"]["uid"], None)
                self._note_ends(pod)
            case Failed(error) if self._is_forbidden_from_the_start(error):
                raise LaunchError(str(error)) from None
            case Failed(error):
                text = f"{error}; the job itself goes on: run this again to follow it"
                raise LostSight(text, transient=getattr(error, "transient", False)) from error
        self._check_sometimes()
        return None

    def cause(self, message: str, log: list[str]) -> str:
        """Why the job failed, by the operator's message, the leader's log and other pods' last lines."""
        if "deadline" in message:
            return self._past_deadline()
        tails = [line for tail in self._tails.values() for line in tail]
        return ending_cause(self._telling_end(), [*log, *tails], self._last_evicted())

    def _take_job(self, job: Object) -> Outcome | None:
        if job["metadata"]["uid"] != self._uid:
            raise LaunchError("it was deleted, and made anew by someone else", transient=True)
        self._job = job
        if self._is_suspended():
            queue = self._profile.queue
            self._say_once(f"waiting for admission by the queue {queue}" if queue else "job is suspended")
        return final_condition(job)

    def _take_pod(self, pod: Object) -> None:
        self._note_ends(pod)
        self._note_eviction(pod)
        problem, uid = pod_problem(pod), pod["metadata"]["uid"]
        if problem is None:
            self._since.pop(uid, None)
            return
        self._judge(problem, f"pod {pod['metadata']['name']}", uid, pod)

    def _judge(self, problem: Problem, what: str, uid: str, pod: Object | None = None) -> None:
        """Warn of a problem, or raise when it will not pass or has lasted too long."""
        if problem.lasting:
            raise LaunchError(problem.text)
        if problem.waits_for_node and pod is not None and not self._profile.autoscaled:
            self._raise_if_never_fits(pod)
        self._say_once(f"warning: {what} waits: {problem.text}")
        waited_s = time.monotonic() - self._since.setdefault(uid, time.monotonic())
        if waited_s > self._profile.patience_s:
            raise LaunchError(f"{what} waited {waited_s:.0f} s (patience_s of the profile): {problem.text}")

    def _raise_if_never_fits(self, pod: Object) -> None:
        try:
            nodes = self._cluster.list_nodes()
        except ApiError:
            return  # Without permission to read nodes the scheduler's own words have to do.
        reason = never_fits(pod, nodes)
        if reason is not None:
            raise LaunchError(
                f"{reason}; choose another profile, or set autoscaled if nodes are made on demand"
            )

    def _note_ends(self, pod: Object) -> None:
        for end in ended_containers(pod):
            if end.key in self._ends:
                continue
            self._ends[end.key] = end
            container = end.key[1]
            reason = f", {end.reason}" if end.reason not in ("", "Error") else ""
            self._say_once(
                f"warning: {container} of pod {end.pod} ended with exit code {end.exit_code}{reason}"
            )
            if end.pod != self._leader:
                self._tails[end.pod] = self._tail(end) or end.message.splitlines()
            self._raise_if_never_prepared(end)

    def _raise_if_never_prepared(self, end: Ended) -> None:
        # The operator counts restarts in pods that run; one that prepares would try until the deadline.
        _, container, instance = end.key
        if container in INIT_CONTAINERS and 0 < self._profile.retries <= instance:
            raise LaunchError(ending_cause(end, self._tail(end)))

    def _tail(self, end: Ended) -> list[str]:
        """Last lines of a container that ended, if its log can be read."""
        with contextlib.suppress(ApiError):
            _, container, instance = end.key
            statuses = container_statuses(self._cluster.get_pod(end.pod))
            restarted = any(
                one["name"] == container and int(one["restartCount"]) > instance for one in statuses
            )
            query = {"tailLines": _TAIL_LINES, **({"previous": "true"} if restarted else {})}
            lines = self._cluster.read_log(end.pod, container, follow=False, **query)
            return [line.partition(" ")[2] for line in lines]
        return []

    def _note_eviction(self, pod: Object) -> None:
        status, uid = pod["status"], pod["metadata"]["uid"]
        if status.get("phase") != "Failed" or status.get("reason") != "Evicted" or uid in self._evicted:
            return
        self._evicted[uid] = pod
        self._say_once(f"warning: pod {pod['metadata']['name']} was evicted: {status.get('message', '')}")
        # The operator counts restarts of containers; an evicted pod would be made anew without end.
        if len(self._evicted) > self._profile.retries:
            raise LaunchError(ending_cause(None, [], pod))

    def _check_sometimes(self) -> None:
        now = time.monotonic()
        if now - self._checked < _CHECK_S:
            return
        self._checked = now
        # The operator looks at the deadline only when something else happens to the job.
        if _age_s(self._job) > self._profile.deadline_s + _LATE_S and not self._is_suspended():
            raise LaunchError(self._past_deadline())
        for pod in list(self._pods.values()):
            self._take_pod(pod)
            if pod["status"].get("phase") == "Pending" and pod_problem(pod) is None:
                self._check_events(pod["metadata"]["name"], pod["metadata"]["uid"])
        if len(self._pods) < self._expected and now - self._began > _EVENTS_AFTER_S:
            self._check_missing_pods()
        else:
            self._since.pop(self._uid, None)

    def _check_events(self, name: str, uid: str) -> None:
        problem = self._events_problem(name, uid)
        if problem is not None:
            self._judge(problem, f"pod {name}", uid)

    def _check_missing_pods(self) -> None:
        if self._is_suspended():
            self._since.pop(self._uid, None)
            return
        nothing = Problem(text="the training operator made no pods so far; is it running?", lasting=False)
        problem = self._events_problem(self._name, self._uid)
        if problem is None and self._pods:
            return
        if problem is not None or time.monotonic() - self._began > 3 * _CHECK_S:
            self._judge(problem or nothing, "the job", self._uid)

    def _events_problem(self, name: str, uid: str) -> Problem | None:
        try:
            events = self._cluster.list_events(name)
        except ApiError as error:
            if not error.transient:
                self._say_once(f"warning: {error}; without events, causes may stay unknown")
            return None
        return events_problem(event for event in events if event["involvedObject"].get("uid") == uid)

    def _telling_end(self) -> Ended | None:
        """The end that tells most: out of memory, then an exit code of the program's own."""
        ends = list(self._ends.values())
        by_memory = [end for end in ends if end.reason == "OOMKilled"]
        own = [end for end in ends if end.exit_code not in _SIGNALLED]
        return next(iter([*by_memory, *own, *ends]), None)

    def _last_evicted(self) -> Object | None:
        return list(self._evicted.values())[-1] if self._evicted and not self._ends else None

    def _is_forbidden_from_the_start(self, error: Exception) -> bool:
        """Whether a job just made cannot be watched at all, so that nothing is lost by deleting it."""
        early = time.monotonic() - self._began < _EARLY_S
        return self._new and early and isinstance(error, ApiError) and error.status == 403

    def _past_deadline(self) -> str:
        return f"it was still active after deadline_s={self._profile.deadline_s} of its profile"

    def _is_suspended(self) -> bool:
        return bool(self._job["spec"].get("runPolicy", {}).get("suspend"))

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)


def _age_s(job: Object) -> float:
    """Seconds since the operator began with the job; 0 if it has not."""
    began = job.get("status", {}).get("startTime")
    return (datetime.now(UTC) - datetime.fromisoformat(began)).total_seconds() if began else 0.0


def final_condition(job: Object) -> Outcome | None:
    """How a job ended; None while it has not."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Succeeded", "Failed") and condition["status"] == "True":
            return Outcome(condition["type"] == "Succeeded", str(condition.get("message", "")))
    return None
