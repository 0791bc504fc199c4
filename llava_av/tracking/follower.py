"""Thread that feeds the journal of a training to a tracker, whatever the tracker answers."""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from llava_av.tracking.journal import Journal

__all__ = ["JournalFollower", "Tracker"]

_LOG = logging.getLogger(__name__)
_BATCH_ROWS = 50
_PAUSE_S, _FINISH_S = 10.0, 60.0


class Tracker(Protocol):
    """Where the metrics of a run are shown."""

    NAME: str
    """Name in messages."""
    REMEDY: str
    """What becomes of metrics that it has not received."""

    def log(self, batches: Iterable[Sequence[Mapping[str, float]]], *, ended: str = "") -> str:
        """Log new rows of a journal and return the tracker's ID of the run.

        Args:
            batches: Rows in their order, in groups; a group is requested when the one before is logged. After
                a failure, rows come again.
            ended: `FINISHED` or `FAILED` for a run that has ended; empty for one that continues.
        """
        ...


class JournalFollower:
    """Feeds a journal to a tracker from a thread; errors of the tracker never reach the training."""

    def __init__(self, tracker: Tracker, journal: Journal) -> None:
        self._tracker = tracker
        self._journal = journal
        self._warned = ""
        self._offset = 0
        """Bytes of the journal that the tracker has."""
        self._ended = ""
        self._run_id: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=tracker.NAME, daemon=True)
        self._thread.start()

    def finish(self, *, failed: bool = False) -> str | None:
        """Log the remaining rows and return the tracker's ID of the run; None if it lacks some of them."""
        self._ended = "FAILED" if failed else "FINISHED"
        self._stop.set()
        self._thread.join(_FINISH_S)
        if self._thread.is_alive():
            self._warn(f"{self._tracker.NAME} did not finish within {_FINISH_S:.0f} s")
        return self._run_id

    def _follow(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            failure = self._log_new()
            if failure and not self._warned:
                self._warn(failure)
        failure = self._log_new(ended=self._ended)
        if failure:
            self._warn(failure)

    def _log_new(self, *, ended: str = "") -> str:
        """Log new rows and return the error message, empty on success."""
        try:
            run_id = self._tracker.log(self._new_rows(), ended=ended)
        # Any error: the journal is stored with the run.
        except Exception as error:
            return " ".join(str(error).split()) or type(error).__name__
        if ended:
            self._run_id = run_id
        return ""

    def _new_rows(self) -> Iterator[Sequence[Mapping[str, float]]]:
        while True:
            rows, end = self._journal.rows_from(self._offset, _BATCH_ROWS)
            if not rows:
                return
            yield rows
            self._offset = end

    def _warn(self, failure: str) -> None:
        if failure != self._warned:
            _LOG.warning("%s; training continues, and %s", failure, self._tracker.REMEDY)
        self._warned = failure
