"""Progress of a job on a cluster: warnings while it waits, then its outcome or its failure cause."""

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
from llava_av.launch.kubernetes.watch import JobChanged, JobEvent, PodChanged, PodDeleted, WatchFailed
from llava_av.launch.profile import JobProfile

__all__ = ["ClusterLost", "JobOutcome", "JobProgress", "final_condition"]

_CHECK_S = 5.0
_EVENTS_AFTER_S = 5.0
_TAIL_LINES = "200"
_SIGNALLED = (137, 143)
_LATE_S = 30
_EARLY_S = 30.0


class ClusterLost(LaunchError):
    """Lost connection to the cluster; the job may still run."""


@dataclass(frozen=True)
class JobOutcome:
    """Outcome of a job."""

    succeeded: bool
    message: str
    """Message of the training operator."""


class JobProgress:
    """Progress of one job; raises `LaunchError` as soon as it is certain that the job cannot run."""

    def __init__(
        self, cluster: Cluster, job: Object, profile: JobProfile, leader: str, report: Callable[[str], None]
    ) -> None:
        """Start with the state of the job when it was created or adopted.

        Args:
            cluster: Cluster with the job.
            job: The job as the API server returned it.
            profile: Its profile.
            leader: Name of the pod whose log is followed.
            report: Called with lines about the job that are not part of its output.
        """
        self._cluster, self._profile, self._leader, self._report = cluster, profile, leader, report
        self._name, self._uid = job["metadata"]["name"], job["metadata"]["uid"]
        replicas = job["spec"]["pytorchReplicaSpecs"].values()
        self._new = not job.get("status")
        self._expected = sum(int(replica["replicas"]) for replica in replicas)
        self._job, self._pods = job, dict[str, Object]()
        self._reported: set[str] = set()
        self._since: dict[str, float] = {}
        self._ends: dict[tuple[str, str, int], Ended] = {}
        self._evicted: dict[str, Object] = {}
        self._tails: dict[str, list[str]] = {}
        self._checked = self._began = time.monotonic()

    def take(self, event: JobEvent) -> JobOutcome | None:
        """Process an event and return the job's outcome once it has one.

        Raises:
            LaunchError: The job cannot run, or was deleted.
            ClusterLost: The cluster no longer answers.
        """
        match event:
            case JobChanged(None):
                raise LaunchError("someone else deleted it", transient=True)
            case JobChanged(job) if job is not None:
                return self._take_job(job)
            case PodChanged(pod):
                self._pods[pod["metadata"]["uid"]] = pod
                self._take_pod(pod)
            case PodDeleted(pod):
                self._pods.pop(pod["metadata"]["uid"], None)
                self._since.pop(pod["metadata"]["uid"], None)
                self._note_ends(pod)
            case WatchFailed(error) if self._is_forbidden_from_the_start(error):
                raise LaunchError(str(error)) from None
            case WatchFailed(error):
                text = f"{error}; the job still runs: run the same command again to follow it"
                raise ClusterLost(text, transient=getattr(error, "transient", False)) from error
        self._check_periodically()
        return None

    def cause(self, message: str, log: list[str]) -> str:
        """Return why the job failed, from the operator's message, its log and other pods' last lines."""
        if "deadline" in message:
            return self._past_deadline()
        tails = [line for tail in self._tails.values() for line in tail]
        return ending_cause(self._decisive_end(), [*log, *tails], self._last_evicted())

    def _take_job(self, job: Object) -> JobOutcome | None:
        if job["metadata"]["uid"] != self._uid:
            raise LaunchError("someone else deleted it and created it again", transient=True)
        self._job = job
        if self._is_suspended():
            queue = self._profile.queue
            self._report_once(f"waiting for admission by the queue {queue}" if queue else "job is suspended")
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
        """Warn about a problem, or raise if it is permanent or has lasted too long."""
        if problem.lasting:
            raise LaunchError(problem.text)
        if problem.waits_for_node and pod is not None and not self._profile.autoscaled:
            self._raise_if_never_fits(pod)
        self._report_once(f"warning: {what} waits: {problem.text}")
        waited_s = time.monotonic() - self._since.setdefault(uid, time.monotonic())
        if waited_s > self._profile.patience_s:
            raise LaunchError(f"{what} waited {waited_s:.0f} s (patience_s of the profile): {problem.text}")

    def _raise_if_never_fits(self, pod: Object) -> None:
        try:
            nodes = self._cluster.list_nodes()
        except ApiError:
            return  # Without permission to list nodes the scheduler's message has to suffice.
        reason = never_fits(pod, nodes)
        if reason is not None:
            raise LaunchError(
                f"{reason}; choose another profile, or set autoscaled if the cluster creates nodes on demand"
            )

    def _note_ends(self, pod: Object) -> None:
        for end in ended_containers(pod):
            if end.key in self._ends:
                continue
            self._ends[end.key] = end
            container = end.key[1]
            reason = f", {end.reason}" if end.reason not in ("", "Error") else ""
            self._report_once(
                f"warning: {container} of pod {end.pod} ended with exit code {end.exit_code}{reason}"
            )
            if end.pod != self._leader:
                self._tails[end.pod] = self._tail(end) or end.message.splitlines()
            self._raise_if_preparation_failed(end)

    def _raise_if_preparation_failed(self, end: Ended) -> None:
        # The operator counts restarts of running pods only; preparation would be retried until the deadline.
        _, container, instance = end.key
        if container in INIT_CONTAINERS and 0 < self._profile.retries <= instance:
            raise LaunchError(ending_cause(end, self._tail(end)))

    def _tail(self, end: Ended) -> list[str]:
        """Return the last lines of a container that ended, if its log can be read."""
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
        self._report_once(f"warning: pod {pod['metadata']['name']} was evicted: {status.get('message', '')}")
        # The operator counts restarts of containers only; it would replace evicted pods forever.
        if len(self._evicted) > self._profile.retries:
            raise LaunchError(ending_cause(None, [], pod))

    def _check_periodically(self) -> None:
        now = time.monotonic()
        if now - self._checked < _CHECK_S:
            return
        self._checked = now
        # The operator checks the deadline only when the job changes.
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
        nothing = Problem(
            text="the training operator has not created pods yet; check that it runs", lasting=False
        )
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
                self._report_once(f"warning: {error}; without events, causes may remain unknown")
            return None
        return events_problem(event for event in events if event["involvedObject"].get("uid") == uid)

    def _decisive_end(self) -> Ended | None:
        """Return the most informative end: out of memory, else an exit code of the program itself."""
        ends = list(self._ends.values())
        by_memory = [end for end in ends if end.reason == "OOMKilled"]
        own = [end for end in ends if end.exit_code not in _SIGNALLED]
        return next(iter([*by_memory, *own, *ends]), None)

    def _last_evicted(self) -> Object | None:
        return list(self._evicted.values())[-1] if self._evicted and not self._ends else None

    def _is_forbidden_from_the_start(self, error: Exception) -> bool:
        """Tell whether a new job cannot be watched at all, so that deleting it loses nothing."""
        early = time.monotonic() - self._began < _EARLY_S
        return self._new and early and isinstance(error, ApiError) and error.status == 403

    def _past_deadline(self) -> str:
        return f"it was still active after deadline_s={self._profile.deadline_s} of its profile"

    def _is_suspended(self) -> bool:
        return bool(self._job["spec"].get("runPolicy", {}).get("suspend"))

    def _report_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            self._report(line)


def _age_s(job: Object) -> float:
    """Return the seconds since the operator started the job; 0 if it has not."""
    began = job.get("status", {}).get("startTime")
    return (datetime.now(UTC) - datetime.fromisoformat(began)).total_seconds() if began else 0.0


def final_condition(job: Object) -> JobOutcome | None:
    """Return the outcome of a job; None while it has none."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Succeeded", "Failed") and condition["status"] == "True":
            return JobOutcome(condition["type"] == "Succeeded", str(condition.get("message", "")))
    return None
