"""Log of one pod name across container restarts, replaced pods and broken connections."""

import re
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from llava_av.launch.kubernetes.client import ApiError, Cluster, Object
from llava_av.launch.kubernetes.pod_template import CONTAINER, INIT_CONTAINERS

__all__ = ["LogFollower", "Position"]

_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_OVERLAP = timedelta(seconds=2)
_STAMPED = re.compile(r"^(?P<time>\d{4}-\S+?)(?P<fraction>\.\d+)?(?P<zone>Z|[+-]\d\d:\d\d)( (?P<text>.*))?$")
_FORBIDDEN = 403


@dataclass
class Position:
    """Position up to which one container's log was forwarded.

    Time stamps alone are not enough: standard output and error are stamped separately, so that stamps may
    decrease by a little. A continued read therefore starts two seconds earlier and skips known lines.
    """

    instance: int = 0
    """First instance of the container, counted by restarts, whose log was not read completely."""
    newest: datetime | None = None
    """Time stamp of the newest line."""
    recent: deque[tuple[datetime, str]] = field(default_factory=deque)
    """Lines of the last two seconds with their times; each line includes its time stamp."""
    _again: Counter[str] = field(default_factory=Counter)

    def begin(self) -> dict[str, str]:
        """Return the query that continues the log; `take` skips lines that arrive twice."""
        self._again = Counter(line for _, line in self.recent)
        if self.newest is None:
            return {}
        return {"sinceTime": (self.newest - _OVERLAP / 2).strftime("%Y-%m-%dT%H:%M:%SZ")}

    def take(self, line: str) -> str | None:
        """Return the text of a line with a time stamp; None if it was passed on before."""
        if self._again[line]:
            self._again[line] -= 1
            return None
        found = _STAMPED.match(line)
        if found is None:
            return line
        time = datetime.fromisoformat(found["time"] + (found["fraction"] or "")[:7] + found["zone"])
        self.newest = time = max(time.astimezone(UTC), self.newest or time)
        self.recent.append((time, line))
        while self.recent[0][0] < self.newest - _OVERLAP:
            self.recent.popleft()
        return found["text"] or ""


class LogFollower:
    """Follower that passes on each line of a pod's containers once, in its own thread."""

    def __init__(
        self, cluster: Cluster, pod: str, emit: Callable[[str], None], *, note: Callable[[str], None]
    ) -> None:
        """Follow the pods of a name, one after the other.

        Args:
            cluster: Cluster with the pods.
            pod: Name of the pods.
            emit: Called with each line.
            note: Called with a line about a log that cannot be read.
        """
        self._cluster, self._pod, self._emit, self._note = cluster, pod, emit, note
        self._positions: dict[tuple[str, str], Position] = {}
        self._changed = threading.Condition()
        self._latest: Object | None = None
        self._finishing = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="pod-log", daemon=True)
        self._thread.start()

    def pod_changed(self, pod: Object) -> None:
        """Report a new state of the pod."""
        with self._changed:
            self._latest = pod
            self._changed.notify()

    def finish(self, timeout_s: float) -> None:
        """Read the log to its end, for at most `timeout_s`."""
        with self._changed:
            self._finishing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        self.stop()

    def stop(self) -> None:
        """Stop without reading the rest."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        pause_s = _PAUSE_S
        while (pod := self._next()) is not None:
            try:
                for container in (*INIT_CONTAINERS, CONTAINER):
                    self._read(pod, container)
                pause_s = _PAUSE_S
            except ApiError as error:
                if error.status == _FORBIDDEN:
                    self._note(f"warning: {error}; the job still runs, but its log is not shown")
                    return
                # A pod that is starting or terminating also refuses; its next change triggers another read.
                if error.transient:
                    self._again(pod, pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _next(self) -> Object | None:
        """Return the pod after its latest change; None if nothing is left to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or self._finishing or self._stopped)
            pod, self._latest = self._latest, None
            return None if self._stopped else pod

    def _again(self, pod: Object, pause_s: float) -> None:
        """Schedule another read of the pod after a pause, unless it changes before."""
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or self._stopped, pause_s)
            self._latest = self._latest or pod

    def _read(self, pod: Object, container: str) -> None:
        """Pass on new lines of a container up to the end of its current instance."""
        status = _container_status(pod, container)
        if status is None:
            return
        uid, instance = pod["metadata"]["uid"], int(status["restartCount"])
        position = self._positions.setdefault((uid, container), Position())
        if position.instance < instance:
            self._copy_previous(position, container)
            position.instance = instance
        if position.instance > instance or not _has_log(status):
            return
        ended = _has_ended(status)
        whole = self._copy(position, container, follow=not ended, instance=(uid, instance))
        if whole and ended:
            position.instance = instance + 1
        else:
            self._look_again()

    def _copy_previous(self, position: Position, container: str) -> None:
        """Pass on the rest of the previous instance, if its log still exists."""
        try:
            self._copy(position, container, follow=False, previous="true")
        except ApiError as error:
            if error.transient or error.status == _FORBIDDEN:
                raise

    def _look_again(self) -> None:
        """Fetch the pod after a stream ended: the container ended or the connection broke."""
        with self._changed:
            if self._changed.wait_for(lambda: self._latest is not None or self._stopped, _PAUSE_S):
                return
        pod = self._cluster.get_pod(self._pod)
        with self._changed:
            self._latest = self._latest or pod

    def _copy(
        self,
        position: Position,
        container: str,
        *,
        follow: bool,
        instance: tuple[str, int] | None = None,
        **query: str,
    ) -> bool:
        """Pass on new lines of a log; return False if it no longer belongs to `instance`."""
        lines = self._cluster.read_log(self._pod, container, follow=follow, **query, **position.begin())
        if instance is not None and not self._is_instance(container, instance):
            # It restarted in between: the rest of the previous instance comes first.
            return False
        for line in lines:
            if self._stopped:
                return False
            text = position.take(line)
            if text is not None:
                self._emit(text)
        return True

    def _is_instance(self, container: str, instance: tuple[str, int]) -> bool:
        pod = self._cluster.get_pod(self._pod)
        status = _container_status(pod, container)
        return status is not None and (pod["metadata"]["uid"], int(status["restartCount"])) == instance


def _container_status(pod: Object, container: str) -> Object | None:
    status = pod.get("status", {})
    statuses = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return next((one for one in statuses if one["name"] == container), None)


def _has_ended(status: Object) -> bool:
    """Tell whether the newest instance of a container ended, also while it waits to restart."""
    return "running" not in status["state"] and _has_log(status)


def _has_log(status: Object) -> bool:
    started = "running" in status["state"] or "terminated" in status["state"]
    return started or "terminated" in status.get("lastState", {})
