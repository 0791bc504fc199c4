"""Events of a job on a cluster: job state, pod states and log lines in one stream."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llava_av.launch.kubernetes.client import ApiError, Cluster, Object
from llava_av.launch.kubernetes.pod_logs import LogFollower

__all__ = [
    "JobChanged",
    "JobEvent",
    "JobWatch",
    "NothingHappened",
    "OutputLine",
    "PodChanged",
    "PodDeleted",
    "WatchFailed",
    "WatchWarning",
]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_TELL_AT_PAUSE_S = 4.0
_GONE = 410
_DRAIN_S = 30.0


@dataclass(frozen=True)
class JobChanged:
    """A new state of the PyTorchJob; None if it was deleted."""

    job: Object | None


@dataclass(frozen=True)
class PodChanged:
    """A new state of one of the job's pods."""

    pod: Object


@dataclass(frozen=True)
class PodDeleted:
    """A deleted pod of the job, in its last known state."""

    pod: Object


@dataclass(frozen=True)
class OutputLine:
    """A line of the job's log."""

    text: str


@dataclass(frozen=True)
class WatchWarning:
    """Problem from which the watch recovers on its own."""

    text: str


@dataclass(frozen=True)
class WatchFailed:
    """An error after which the watch cannot continue."""

    error: Exception


@dataclass(frozen=True)
class NothingHappened:
    """A pause without events, so that the reader can check deadlines."""


JobEvent = JobChanged | PodChanged | PodDeleted | OutputLine | WatchWarning | WatchFailed | NothingHappened


class JobWatch:
    """Watch of one job in its own threads, across broken connections and expired resource versions.

    The threads are daemons; one that waits for an answer ends within minutes after `close`.
    """

    def __init__(self, cluster: Cluster, name: str, *, leader: str) -> None:
        """Start to watch.

        Args:
            cluster: Cluster with the job.
            name: Name of the job.
            leader: Name of the pod whose log is followed.
        """
        self._events: queue.SimpleQueue[JobEvent] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._leader = leader
        self._cluster = cluster

        def note(text: str) -> None:
            self._events.put(WatchWarning(text))

        self._log = LogFollower(cluster, leader, lambda text: self._events.put(OutputLine(text)), note=note)
        job, pods = f"metadata.name={name}", f"training.kubeflow.org/job-name={name}"
        self._start(
            Feed(
                lambda: cluster.list_jobs(fieldSelector=job),
                lambda version: cluster.watch_jobs(version, fieldSelector=job),
                self._job_changed,
                note,
            )
        )
        self._start(
            Feed(
                lambda: cluster.list_pods(labelSelector=pods),
                lambda version: cluster.watch_pods(version, labelSelector=pods),
                self._pods_changed,
                note,
            )
        )

    def events(self, wait_s: float) -> Iterator[JobEvent]:
        """Yield the events in order, and `NothingHappened` after each `wait_s` seconds without one."""
        while True:
            try:
                yield self._events.get(timeout=wait_s)
            except queue.Empty:
                yield NothingHappened()

    def rest_of_log(self) -> Iterator[str]:
        """Close the watch of a job that has ended, and yield the rest of its log."""
        # The job's final state may arrive before that of its pod.
        with contextlib.suppress(ApiError):
            self._log.pod_changed(self._cluster.get_pod(self._leader))
        self._log.finish(_DRAIN_S)
        self.close()
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event, OutputLine):
                yield event.text

    def close(self) -> None:
        """Stop watching, without waiting for the threads."""
        self._stopped.set()
        self._log.stop()

    def _start(self, feed: "Feed") -> None:
        def run() -> None:
            try:
                feed.run(self._stopped)
            except Exception as error:
                self._events.put(WatchFailed(error))

        threading.Thread(target=run, name="job-watch", daemon=True).start()

    def _job_changed(self, now: Object | None, before: Object | None) -> None:
        self._events.put(JobChanged(now))

    def _pods_changed(self, now: Object | None, before: Object | None) -> None:
        if now is not None:
            if now["metadata"]["name"] == self._leader:
                self._log.pod_changed(now)
            self._events.put(PodChanged(now))
        elif before is not None:
            self._events.put(PodDeleted(before))


class Feed:
    """A list of objects and the changes to it, resumed wherever the connection broke."""

    def __init__(
        self,
        list_all: Callable[[], Object],
        watch: Callable[[str], Iterator[Object]],
        changed: Callable[[Object | None, Object | None], None],
        note: Callable[[str], None],
    ) -> None:
        """Follow the objects that `list_all` returns.

        Args:
            list_all: Lists the objects.
            watch: Yields the events after a resource version.
            changed: Called with an object's new and old state, each None if there is none; called with two
                Nones if the list is empty.
            note: Called with a line about an error that persists.
        """
        self._note = note
        self._list, self._watch, self._changed = list_all, watch, changed
        self._objects: dict[str, Object] = {}
        self._version: str | None = None
        self._pause_s = _FIRST_PAUSE_S

    def run(self, stopped: threading.Event) -> None:
        """Follow until `stopped` is set.

        Raises:
            ApiError: An error that a retry does not fix, such as a missing permission.
        """
        while not stopped.is_set():
            try:
                if self._version is None:
                    self._relist()
                assert self._version is not None
                for event in self._watch(self._version):
                    if stopped.is_set():
                        return
                    self._pause_s = _FIRST_PAUSE_S
                    self._apply(event)
            except ApiError as error:
                if error.status == _GONE:
                    # The server no longer has the changes since this version: list the objects again.
                    self._version = None
                elif not error.transient:
                    raise
                elif self._pause_s == _TELL_AT_PAUSE_S:
                    self._note(f"warning: {error}; retrying")
                stopped.wait(self._pause_s)
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _relist(self) -> None:
        listing = self._list()
        now = {item["metadata"]["uid"]: item for item in listing["items"]}
        for uid in [uid for uid in self._objects if uid not in now]:
            self._changed(None, self._objects.pop(uid))
        if not now:
            self._changed(None, None)
        for uid, item in now.items():
            self._changed(item, self._objects.get(uid))
        self._objects, self._version = now, listing["metadata"]["resourceVersion"]

    def _apply(self, event: Object) -> None:
        item = event["object"]
        if event["type"] == "ERROR":
            code = int(item.get("code", 500))
            raise ApiError(code, str(item.get("message", "")), transient=True)
        self._version = item["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        uid = item["metadata"]["uid"]
        before = self._objects.pop(uid, None)
        if event["type"] == "DELETED":
            self._changed(None, item)
            return
        self._objects[uid] = item
        self._changed(item, before)
