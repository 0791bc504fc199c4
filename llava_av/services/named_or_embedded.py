"""Environment of every command: the servers that variables name, otherwise embedded ones."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from llava_av.errors import UserError
from llava_av.processes import set_variables
from llava_av.services.mlflow_health import require_answer
from llava_av.services.server_errors import ServiceError
from llava_av.services.servers import Running, ServerOptions, embedded_servers
from llava_av.services.state import StateLock, ensure_credentials, read_holder
from llava_av.services.supervised import wait_for_status
from llava_av.storage.store import ObjectStore
from llava_av.storage.store_settings import required_variables

__all__ = ["service_environment"]

_LOG = logging.getLogger(__name__)
_MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"
_ANSWER_S = 5.0
_PROBED_S = 86_400.0


@contextlib.contextmanager
def service_environment(
    state: Path, *, need_mlflow: bool = True, wait_for_mlflow: bool = True, require_mlflow: bool = True
) -> Iterator[dict[str, str]]:
    """Provide an object store and MLflow during a block.

    If the environment names servers, they are checked and used; whether the store honours conditional writes
    is checked once a day. Otherwise the block uses the servers that `services_up` keeps on `state`, or starts
    servers there and stops them after the block.

    Args:
        state: Folder of embedded servers' data.
        need_mlflow: True if MLflow is needed, too.
        wait_for_mlflow: False to start as soon as the object store works; requests to an embedded MLflow
            wait until it has started, some seconds later.
        require_mlflow: False to log only a warning if a named MLflow does not answer.

    Yields:
        The variables that are added to `os.environ` until the block ends.

    Raises:
        ServiceError: Only some variables are set, `state` is in use, or a server does not start or answer.
        StoreError: The named object store is not usable.
    """
    if _named_by_environment(need_mlflow):
        _check_named(state, need_mlflow, require_mlflow)
        yield {}
        return
    with contextlib.ExitStack() as stack:
        variables = _join(state)
        if variables is None:
            lock = StateLock(state, "command")
            stack.callback(lock.close)
            options = ServerOptions(mlflow=need_mlflow, wait_for_mlflow=wait_for_mlflow)
            running = stack.enter_context(embedded_servers(state, lock, options))
            stack.enter_context(_explained_by(running))
            variables = running.addresses.environment(running.credentials)
        stack.enter_context(set_variables(variables))
        yield variables


def _named_by_environment(need_mlflow: bool) -> bool:
    """Tell whether the environment names all servers; refuse if it names only some."""
    store = required_variables(os.environ)
    names = (*store, _MLFLOW_VARIABLE)
    present = [name for name in names if os.environ.get(name)]
    needed = names if need_mlflow else store
    missing = [name for name in needed if name not in present]
    if present and missing:
        raise ServiceError(
            f"{', '.join(present)} set but not {', '.join(missing)}: set all to use your own servers, or "
            "none for embedded ones"
        )
    return not missing


def _check_named(state: Path, need_mlflow: bool, require_mlflow: bool) -> None:
    store = ObjectStore.from_env()
    store.ensure_bucket()
    _probe(store, state / "probed-store")
    if need_mlflow:
        try:
            require_answer(os.environ[_MLFLOW_VARIABLE], _ANSWER_S)
        except ServiceError as error:
            if require_mlflow:
                raise
            _LOG.warning("%s; continuing, since only `llava-av register` needs it", error)


def _probe(store: ObjectStore, note: Path) -> None:
    """Probe the store, unless the note says that it passed within a day."""
    name = f"{store.endpoint} {store.bucket} {store.settings.access_key}"
    with contextlib.suppress(OSError, ValueError):
        if note.read_text() == name and 0 <= time.time() - note.stat().st_mtime < _PROBED_S:
            return
    store.probe()
    # If the note cannot be written, the next command probes again.
    with contextlib.suppress(OSError):
        note.write_text(name)


def _join(state: Path) -> dict[str, str] | None:
    """Return the variables of the servers that `services_up` keeps; None if it keeps none."""
    holder = read_holder(state)
    if holder is None or holder.kind != "services":
        return None
    addresses = wait_for_status(state, None).addresses
    return addresses.environment(ensure_credentials(state))


@contextlib.contextmanager
def _explained_by(running: Running) -> Iterator[None]:
    """Replace an error of the block by that of a server that has ended and caused it."""
    try:
        yield
    except UserError:
        running.check()
        raise
