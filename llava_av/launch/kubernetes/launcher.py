"""Jobs as PyTorchJobs of a Kubernetes cluster."""

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
from llava_av.launch.kubernetes.manifest import (
    CONTENT_LABEL,
    PIPELINE_LABEL,
    RUN_LABEL,
    build_job,
    leader_pod,
)
from llava_av.launch.kubernetes.progress import LostSight, Progress, final_condition
from llava_av.launch.kubernetes.watch import JobWatch, Line, Note
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
_OURS = ("app.kubernetes.io/managed-by", "app.kubernetes.io/component", RUN_LABEL)


class KubernetesLauncher:
    """Runs each job as a PyTorchJob.

    A job of the same content that is there already is adopted, so running one again after this process was
    lost goes on where it was. SIGTERM, SIGHUP and KeyboardInterrupt delete the job before anything else is
    done. A job that has ended stays for `kept_s` of its profile, with the logs of its pods.
    """

    def __init__(
        self,
        logs: Path,
        profile: JobProfile,
        *,
        labels: Mapping[str, str] | None = None,
        adopt_finished: bool = True,
    ) -> None:
        """Launch jobs as `profile` says.

        Args:
            logs: Folder for the output of each job, `<job name>.log`.
            profile: Where and with what jobs run.
            labels: Further labels of jobs and pods, such as a pipeline run's id; see `PIPELINE_LABEL`.
            adopt_finished: Whether a job that has ended well counts as run; False for who looked for its
                result and found none.
        """
        self._logs, self._profile, self._labels = logs, profile, dict(labels or {})
        self._adopt_finished = adopt_finished

    def run(self, spec: JobSpec, *, on_line: Callable[[str], None] | None = None) -> JobResult:
        """Run `spec` and wait for it; see `Launcher.run`.

        Raises:
            LaunchError: the job could not start or failed. When only the cluster cannot be asked any more,
                the job goes on, and the text says so.
        """
        started = time.monotonic()
        job = build_job(spec, self._profile, labels=self._labels, log_variables=inherited_variables())
        cluster = Cluster(self._profile.namespace)
        path = self._logs / f"{spec.name}.log"
        self._logs.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file, _raising_on_signals():
            output = _Output(file, on_line)
            held = _HeldJob(cluster, job, output.say, adopt_finished=self._adopt_finished)
            with held:
                try:
                    held.obtain()
                    self._follow(cluster, held, leader_pod(spec, held.name), output)
                except LaunchError as error:
                    text = f"{spec.name} failed: {error} ({held.where}, log: {path})"
                    raise LaunchError(text, transient=error.transient) from None
        last = tuple(output.last)
        return JobResult(exit_code=0, last_lines=last, seconds=time.monotonic() - started, job=held.name)

    def _follow(self, cluster: Cluster, held: "_HeldJob", leader: str, output: "_Output") -> None:
        progress = Progress(cluster, held.job, self._profile, leader, output.say)
        watch = JobWatch(cluster, held.name, leader=leader)
        try:
            for seen in watch.seen(_TICK_S):
                if isinstance(seen, Line):
                    output.line(seen.text)
                elif isinstance(seen, Note):
                    output.say(seen.text)
                outcome = progress.take(seen)
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
    """The lines of a job and about it: to its log, to the caller, and the last ones kept."""

    def __init__(self, file: IO[str], on_line: Callable[[str], None] | None) -> None:
        self._file, self._on_line = file, on_line
        self.last: deque[str] = deque(maxlen=_LAST_LINES)

    def line(self, text: str) -> None:
        """Pass on a line of the job."""
        self.last.append(redact(text))
        self.say(text)

    def say(self, text: str) -> None:
        """Pass on a line that is not the job's own."""
        shown = redact(text)
        self._file.write(shown + "\n")
        self._file.flush()
        if self._on_line is not None:
            self._on_line(shown)

    def ending(self, cause: str) -> str:
        """The last lines of the job, as an addition to the cause; empty when the cause is all they say."""
        lines = [line.strip() for line in self.last if re.search(r"\w", line) and cause not in line][
            -_SHOWN_LINES:
        ]
        return f"; last lines: {' | '.join(line[:200] for line in lines)}" if lines else ""


class _HeldJob:
    """The job while it is being run; whatever leaves the block before its end deletes it."""

    def __init__(
        self, cluster: Cluster, job: Object, say: Callable[[str], None], *, adopt_finished: bool
    ) -> None:
        self._cluster, self._say, self._adopt_finished = cluster, say, adopt_finished
        self.job = job
        """What was asked for; as the cluster knows it after `obtain`."""
        self.name: str = job["metadata"]["name"]
        self.ended = False
        """Whether the cluster says that the job has ended, so that it can stay."""
        self._uid: str | None = None
        self._asked = False
        self._others = False

    @property
    def where(self) -> str:
        return f"job: {self._cluster.namespace}/{self.name}"

    def __enter__(self) -> "_HeldJob":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # Nothing may come before: when a pipeline is cancelled, this process has a fraction of a second.
        lost = isinstance(error, LaunchError) and isinstance(error.__context__, LostSight)
        if error is not None and not self.ended and not lost and not self._others and self._asked:
            self._delete()

    def obtain(self) -> None:
        """Create the job, or adopt the one of the same content; a failed one is made anew.

        Raises:
            LaunchError: the cluster refuses the job, or its name is taken by another one.
        """
        until = time.monotonic() + _GONE_MARGIN_S + self._grace_s()
        while time.monotonic() < until:
            try:
                # From here on it may be there, also if no answer comes.
                self._asked = True
                self._hold(self._with_patience(lambda: self._cluster.create_job(self.job)))
                self._say(f"created PyTorchJob {self._cluster.namespace}/{self.name}")
                return
            except ApiError as error:
                taken = error.status == 409
                self._asked = taken or error.transient
                if not taken:
                    raise
            if self._take_over():
                return
            time.sleep(1)
        raise LaunchError("a job of this name is being deleted, but does not go; look at its pods")

    def _take_over(self) -> bool:
        """Adopt the job that has the name, or delete it and return False."""
        there = self._cluster.get_job(self.name)
        if there is None or there["metadata"].get("deletionTimestamp"):
            return False
        mine, its = self.job["metadata"]["labels"], there["metadata"].get("labels", {})
        if any(its.get(label) != mine[label] for label in _OURS):
            raise LaunchError("a job of this name that is not this project's is there; delete or rename it")
        outcome = final_condition(there)
        same = its.get(CONTENT_LABEL) == mine[CONTENT_LABEL]
        if same and (outcome is None or (outcome.succeeded and self._adopt_finished)):
            # Another pipeline run's job is that run's to delete.
            self._others = mine.get(PIPELINE_LABEL) != its.get(PIPELINE_LABEL)
            self._hold(there)
            self._say(f"adopted PyTorchJob {self._cluster.namespace}/{self.name}, which was there already")
            return True
        if outcome is None:
            raise LaunchError("it runs already with another profile; wait for its end or delete it")
        self._say(f"deleting the job of before, which {'ended' if outcome.succeeded else 'failed'}")
        self._cluster.delete_job(self.name, there["metadata"]["uid"])
        return False

    def _hold(self, job: Object) -> None:
        self.job, self._uid, self._asked = job, job["metadata"]["uid"], True

    def _with_patience(self, request: Callable[[], Object]) -> Object:
        """Repeat a request that a busy server refuses for the moment."""
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
        self._say(f"warning: could not delete {self._cluster.namespace}/{self.name}: {problem}")

    def _is_ours(self) -> bool:
        """Whether a job that was asked for, but not answered for, is there."""
        there = self._cluster.get_job(self.name)
        if there is None or final_condition(there) is not None:
            return False
        its, mine = there["metadata"].get("labels", {}), self.job["metadata"]["labels"]
        return all(its.get(label) == mine.get(label) for label in (CONTENT_LABEL, PIPELINE_LABEL))

    def _grace_s(self) -> int:
        replicas = self.job["spec"]["pytorchReplicaSpecs"].values()
        return max(int(one["template"]["spec"]["terminationGracePeriodSeconds"]) for one in replicas)


def _raising_on_signals() -> AbstractContextManager[None]:
    """Make SIGTERM and SIGHUP leave the block by SystemExit; more of them do not disturb its way out."""
    leaving = False

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal leaving
        if not leaving:
            leaving = True
            raise SystemExit(128 + number)

    return handling_signals(leave, signal.SIGTERM, signal.SIGHUP)
