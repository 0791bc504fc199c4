"""Launcher that runs jobs as PyTorchJobs of a Kubernetes cluster."""

import re
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import IO

from llava_av.launch.api import JobResult, JobSpec, LaunchError
from llava_av.launch.kubernetes.client import ApiError, Cluster, Object, Unreachable
from llava_av.launch.kubernetes.job_progress import ClusterLost, JobProgress, final_condition
from llava_av.launch.kubernetes.pytorchjob import (
    CONTENT_LABEL,
    PIPELINE_LABEL,
    RUN_LABEL,
    build_job,
    leader_pod,
)
from llava_av.launch.kubernetes.watch import JobWatch, OutputLine, WatchWarning
from llava_av.launch.profile import JobProfile
from llava_av.logs import inherited_variables
from llava_av.processes import handling_signals
from llava_av.redaction import redact

__all__ = ["KubernetesLauncher"]

_LAST_LINES = 400
_SHOWN_LINES = 3
_TICK_S = 2.0
_ATTEMPTS = 5
_GONE_MARGIN_S = 120
_IDENTITY_LABELS = ("app.kubernetes.io/managed-by", "app.kubernetes.io/component", RUN_LABEL)


class KubernetesLauncher:
    """Launcher that runs each job as a PyTorchJob.

    An existing job with the same content is adopted: if this process is lost, running the same job again
    follows it. SIGTERM, SIGHUP and KeyboardInterrupt delete the job before anything else happens. A job that
    has ended stays for `kept_s` of its profile, with the logs of its pods.
    """

    def __init__(
        self,
        logs: Path,
        profile: JobProfile,
        *,
        labels: Mapping[str, str] | None = None,
        adopt_finished: bool = True,
    ) -> None:
        """Launch jobs with a profile.

        Args:
            logs: Folder for the output of each job, `<job name>.log`.
            profile: Resources and image of the jobs.
            labels: Additional labels of jobs and pods, such as a pipeline run's ID; see `PIPELINE_LABEL`.
            adopt_finished: Adopt a job that has succeeded instead of running it again; False if the caller
                has looked for its result and found none.
        """
        self._logs, self._profile, self._labels = logs, profile, dict(labels or {})
        self._adopt_finished = adopt_finished

    def run(self, spec: JobSpec, *, on_line: Callable[[str], None] | None = None) -> JobResult:
        """Run a job and wait for its end; see `Launcher.run`.

        Raises:
            LaunchError: The job could not start or failed. If only the cluster stopped answering, the job
                still runs, and the message says so.
        """
        started = time.monotonic()
        job = build_job(spec, self._profile, labels=self._labels, log_variables=inherited_variables())
        cluster = Cluster(self._profile.namespace)
        path = self._logs / f"{spec.name}.log"
        self._logs.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file, _raising_on_signals():
            output = _Output(file, on_line)
            held = _HeldJob(cluster, job, output.report, adopt_finished=self._adopt_finished)
            with held:
                try:
                    held.obtain()
                    self._follow(cluster, held, leader_pod(spec, held.name), output)
                except LaunchError as error:
                    text = f"{spec.name} failed: {error} ({held.description}, log: {path})"
                    raise LaunchError(text, transient=error.transient) from None
        return JobResult(seconds=time.monotonic() - started, job=held.name)

    def _follow(self, cluster: Cluster, held: "_HeldJob", leader: str, output: "_Output") -> None:
        progress = JobProgress(cluster, held.job, self._profile, leader, output.report)
        watch = JobWatch(cluster, held.name, leader=leader)
        try:
            for event in watch.events(_TICK_S):
                if isinstance(event, OutputLine):
                    output.line(event.text)
                elif isinstance(event, WatchWarning):
                    output.report(event.text)
                outcome = progress.take(event)
                if outcome is not None:
                    break
            held.ended = True
            for text in watch.rest_of_log():
                output.line(text)
        finally:
            watch.close()
        assert outcome is not None
        if not outcome.succeeded:
            cause = progress.cause(outcome.message, list(output.last))
            raise LaunchError(cause + output.ending(cause))


class _Output:
    """Output of a job and messages about it, sent to its log and to the caller; keeps the last lines."""

    def __init__(self, file: IO[str], on_line: Callable[[str], None] | None) -> None:
        self._file, self._on_line = file, on_line
        self.last: deque[str] = deque(maxlen=_LAST_LINES)

    def line(self, text: str) -> None:
        """Pass on a line of the job's output."""
        self.last.append(redact(text))
        self.report(text)

    def report(self, text: str) -> None:
        """Pass on a line about the job."""
        shown = redact(text)
        self._file.write(shown + "\n")
        self._file.flush()
        if self._on_line is not None:
            self._on_line(shown)

    def ending(self, cause: str) -> str:
        """Return the last lines of the output as an addition to the cause; empty if they only repeat it."""
        lines = [line.strip() for line in self.last if re.search(r"\w", line) and cause not in line][
            -_SHOWN_LINES:
        ]
        return f"; last lines: {' | '.join(line[:200] for line in lines)}" if lines else ""


class _HeldJob:
    """Job while it runs; leaving the block before the job ends deletes it."""

    def __init__(
        self, cluster: Cluster, job: Object, report: Callable[[str], None], *, adopt_finished: bool
    ) -> None:
        self._cluster, self._report, self._adopt_finished = cluster, report, adopt_finished
        self.job = job
        """Requested job; the cluster's copy after `obtain`."""
        self.name: str = job["metadata"]["name"]
        self.ended = False
        """True if the job has ended on its own and need not be deleted."""
        self._uid: str | None = None
        self._requested = False
        self._is_foreign = False

    @property
    def description(self) -> str:
        return f"job: {self._cluster.namespace}/{self.name}"

    def __enter__(self) -> "_HeldJob":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # Delete first: when a pipeline is cancelled, this process has a fraction of a second left.
        lost = isinstance(error, LaunchError) and isinstance(error.__context__, ClusterLost)
        if error is not None and not self.ended and not lost and not self._is_foreign and self._requested:
            self._delete()

    def obtain(self) -> None:
        """Create the job, or adopt one with the same content; replace one that failed.

        Raises:
            LaunchError: The cluster refuses the job, or another job has its name.
        """
        until = time.monotonic() + _GONE_MARGIN_S + self._grace_s()
        while time.monotonic() < until:
            try:
                # From here on the job may exist, even if no answer arrives.
                self._requested = True
                self._hold(self._retry_busy(lambda: self._cluster.create_job(self.job)))
                self._report(f"created PyTorchJob {self._cluster.namespace}/{self.name}")
                return
            except ApiError as error:
                taken = error.status == 409
                self._requested = taken or error.transient
                if not taken:
                    raise
            if self._take_over():
                return
            time.sleep(1)
        raise LaunchError("a job of this name is stuck in Terminating; check the finalizers of its pods")

    def _take_over(self) -> bool:
        """Adopt the existing job of this name, or delete it and return False."""
        existing = self._cluster.get_job(self.name)
        if existing is None or existing["metadata"].get("deletionTimestamp"):
            return False
        mine, its = self.job["metadata"]["labels"], existing["metadata"].get("labels", {})
        if any(its.get(label) != mine[label] for label in _IDENTITY_LABELS):
            raise LaunchError("another program's job has this name; delete or rename that job")
        outcome = final_condition(existing)
        same = its.get(CONTENT_LABEL) == mine[CONTENT_LABEL]
        if same and (outcome is None or (outcome.succeeded and self._adopt_finished)):
            # Only the pipeline run that created a job may delete it.
            self._is_foreign = mine.get(PIPELINE_LABEL) != its.get(PIPELINE_LABEL)
            self._hold(existing)
            self._report(f"adopted the existing PyTorchJob {self._cluster.namespace}/{self.name}")
            return True
        if outcome is None:
            raise LaunchError("it is already running with another profile; wait until it ends, or delete it")
        self._report(f"deleting the previous job, which {'succeeded' if outcome.succeeded else 'failed'}")
        self._cluster.delete_job(self.name, existing["metadata"]["uid"])
        return False

    def _hold(self, job: Object) -> None:
        self.job, self._uid, self._requested = job, job["metadata"]["uid"], True

    def _retry_busy(self, request: Callable[[], Object]) -> Object:
        """Repeat a request while a busy server refuses it."""
        for attempt in range(_ATTEMPTS):
            try:
                return request()
            except ApiError as error:
                last = attempt == _ATTEMPTS - 1
                if last or not error.transient or isinstance(error, Unreachable):
                    raise
            time.sleep(2.0**attempt / 2)
        raise AssertionError("the last attempt returns or raises")

    def _delete(self) -> None:
        problem: ApiError | None = None
        for _ in range(_ATTEMPTS):
            try:
                if self._uid is None and not self._is_ours():
                    return
                self._cluster.delete_job(self.name, self._uid)
                return
            except ApiError as error:
                problem = error
                if not error.transient:
                    break
                time.sleep(0.5)
        self._report(f"warning: could not delete {self._cluster.namespace}/{self.name}: {problem}")

    def _is_ours(self) -> bool:
        """Tell whether a creation request that got no answer created the job."""
        existing = self._cluster.get_job(self.name)
        if existing is None or final_condition(existing) is not None:
            return False
        its, mine = existing["metadata"].get("labels", {}), self.job["metadata"]["labels"]
        return all(its.get(label) == mine.get(label) for label in (CONTENT_LABEL, PIPELINE_LABEL))

    def _grace_s(self) -> int:
        replicas = self.job["spec"]["pytorchReplicaSpecs"].values()
        return max(int(one["template"]["spec"]["terminationGracePeriodSeconds"]) for one in replicas)


def _raising_on_signals() -> AbstractContextManager[None]:
    """Leave the block by SystemExit on SIGTERM and SIGHUP; further signals do not interrupt the cleanup."""
    leaving = False

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal leaving
        if not leaving:
            leaving = True
            raise SystemExit(128 + number)

    return handling_signals(leave, signal.SIGTERM, signal.SIGHUP)
