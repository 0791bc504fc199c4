"""Thread that replaces the served model when its alias moves to another version.

The new version is fetched, verified and loaded while the present one answers. A version that cannot be
served, for any reason, is refused: the present one stays, and only a further move is tried. If S3 or MLflow
does not answer, the next check tries again.
"""

import logging
import threading

from llava_av.errors import UserError
from llava_av.serving.current_model import CurrentModel
from llava_av.serving.model_sources import ModelSource

__all__ = ["AliasFollower"]

_LOG = logging.getLogger(__name__)
_ENDING_S = 5.0


class AliasFollower:
    """Follower of an alias.

    Args:
        source: Address with the alias.
        current: Model that answers.
        served: Address of the version that it is now.
        interval_s: Seconds between two checks.
    """

    def __init__(self, source: ModelSource, current: CurrentModel, served: str, *, interval_s: float) -> None:
        self._source, self._current, self._served = source, current, served
        self._interval_s = interval_s
        self._refused: str | None = None
        self._problem = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow-alias", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; one that waits for a server that does not answer is left behind."""
        self._ended.set()
        self._thread.join(_ENDING_S)

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                self._check()
                self._problem = ""
            except UserError as error:
                self._warn_once(str(error))
            except Exception:
                _LOG.exception("cannot find out which version to serve; %s stays", self._served)

    def _warn_once(self, problem: str) -> None:
        """Log a problem when it begins, not at every check of an outage."""
        if problem != self._problem:
            _LOG.warning("cannot find out which version to serve: %s; %s stays", problem, self._served)
        self._problem = problem

    def _check(self) -> None:
        wanted = self._source.present()
        if wanted == self._served:
            self._refused = None
        elif wanted != self._refused:
            self._replace(wanted)

    def _replace(self, wanted: str) -> None:
        _LOG.info("loading %s beside %s …", wanted, self._served)
        try:
            model = self._source.load(wanted)
        except Exception as error:
            if isinstance(error, UserError) and error.transient:
                raise
            # a version that does not fit into memory would otherwise be loaded again at every check
            self._refused = wanted
            unexpected = not isinstance(error, UserError)
            _LOG.error("%s is refused: %s; %s stays", wanted, error, self._served, exc_info=unexpected)
            self._source.discard(wanted)
            return
        if self._ended.is_set():
            model.close()
            return
        self._current.replace(model)
        replaced, self._served = self._served, wanted
        _LOG.info("%s answers now, digest %s", wanted, model.identity.digest)
        self._source.discard(replaced)
