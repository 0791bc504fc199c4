"""What happens to a job on a cluster, as one stream of its state, its pods' states and its log's lines."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llava_av.launch.kubernetes.client import ApiError, Cluster, Object
from llava_av.launch.kubernetes.logs import LogFollower

__all__ = ["Failed", "JobSeen", "JobWatch", "Line", "Note", "PodGone", "PodSeen", "Seen", "Waited"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_TELL_AT_PAUSE_S = 4.0
_GONE = 410
_DRAIN_S = 30.0


@dataclass(frozen=True)
class JobSeen:
    """The PyTorchJob as it is now; None when it is gone."""

    job: Object | None


@dataclass(frozen=True)
class PodSeen:
    """A pod of the job as it is now."""

    pod: Object


@dataclass(frozen=True)
class PodGone:
    """A pod of the job that was deleted, as it was last."""

    pod: Object


@dataclass(frozen=True)
class Line:
    """A line of the job's log."""

    text: str


@dataclass(frozen=True)
class Note:
    """Trouble of the watch itself that it goes on from."""

    text: str


@dataclass(frozen=True)
class Failed:
    """Something that the watch cannot go on without."""

    error: Exception


@dataclass(frozen=True)
class Waited:
    """Nothing happened for a while."""


Seen = JobSeen | PodSeen | PodGone | Line | Note | Failed | Waited


class JobWatch:
    """Watches one job in threads of its own, through broken connections and expired versions.

    The threads are daemons: one that waits for an answer ends within minutes of `close`.
    """

    def __init__(self, cluster: Cluster, name: str, *, leader: str) -> None:
        """Begin to watch.

        Args:
            cluster: Where the job is.
            name: Name of the job.
            leader: Name of the pod whose log is followed.
        """
        self._seen: queue.SimpleQueue[Seen] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._leader = leader
        self._cluster = cluster

        def note(text: str) -> None:
            self._seen.put(Note(text))

        self._log = LogFollower(cluster, leader, lambda text: self._seen.put(Line(text)), note=note)
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

    def seen(self, wait_s: float) -> Iterator[Seen]:
        """What happens, in order; `Waited` after each `wait_s` seconds without anything."""
        while True:
            try:
                yield self._seen.get(timeout=wait_s)
            except queue.Empty:
                yield Waited()

    def rest_of_log(self) -> Iterator[str]:
        """The lines that are left when the job has ended; the watch is closed then."""
        # The end of the job may be known before what became of its pod.
        with contextlib.suppress(ApiError):
            self._log.pod_changed(self._cluster.get_pod(self._leader))
        self._log.finish(_DRAIN_S)
        self.close()
        while not self._seen.empty():
            seen = self._seen.get()
            if isinstance(seen, Line):
                yield seen.text

    def close(self) -> None:
        """Stop watching, without waiting for the threads."""
        self._stopped.set()
        self._log.stop()

    def _start(self, feed: "Feed") -> None:
        def run() -> None:
            try:
                feed.run(self._stopped)
            except Exception as error:
                self._seen.put(Failed(error))

        threading.Thread(target=run, name="job-watch", daemon=True).start()

    def _job_changed(self, now: Object | None, before: Object | None) -> None:
        self._seen.put(JobSeen(now))

    def _pods_changed(self, now: Object | None, before: Object | None) -> None:
        if now is not None:
            if now["metadata"]["name"] == self._leader:
                self._log.pod_changed(now)
            self._seen.put(PodSeen(now))
        elif before is not None:
            self._seen.put(PodGone(before))


class Feed:
    """A list of objects and the changes to it, resumed wherever it broke off."""

    def __init__(
        self,
        list_all: Callable[[], Object],
        watch: Callable[[str], Iterator[Object]],
        changed: Callable[[Object | None, Object | None], None],
        note: Callable[[str], None],
    ) -> None:
        """Follow what `list_all` lists.

        Args:
            list_all: Lists the objects.
            watch: Yields the events after a resource version.
            changed: Called with an object as it is now and as it was; None where there is none. Also called
                with twice None when a list is empty.
            note: Called with a line about an error that lasts.
        """
        self._note = note
        self._list, self._watch, self._changed = list_all, watch, changed
        self._objects: dict[str, Object] = {}
        self._version: str | None = None
        self._pause_s = _FIRST_PAUSE_S

    def run(self, stopped: threading.Event) -> None:
        """Follow until `stopped` is set.

        Raises:
            ApiError: an error that trying again does not change, such as a missing permission.
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
                    # The server no longer knows the changes since this version: what is there now counts.
                    self._version = None
                elif not error.transient:
                    raise
                elif self._pause_s == _TELL_AT_PAUSE_S:
                    self._note(f"warning: {error}; trying again")
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
