"""`llava-av serve`: answer OpenAI-compatible requests with a trained model."""

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.options import DeviceOption, DtypeOption, OutputDir, parsed_overrides
from llava_av.errors import UserError
from llava_av.processes import handling_signals
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER, Workspace

if TYPE_CHECKING:
    from llava_av.serving.api_keys import ApiKeys
    from llava_av.serving.current_model import CurrentModel
    from llava_av.serving.limits import ServingLimits
    from llava_av.serving.model_sources import ModelSource

__all__ = ["serve"]

_LOG = logging.getLogger(__name__)

_MAX_S = 86_400.0
"""A thread cannot wait for any number of seconds."""
_FollowSeconds = Annotated[
    float, typer.Option(min=0.1, max=_MAX_S, help="Seconds between two checks of the alias.")
]
_DelaySeconds = Annotated[
    float,
    typer.Option(
        min=0,
        max=_MAX_S,
        help="Seconds after SIGTERM during which requests are still accepted, but /readyz is 503.",
    ),
]


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model: a folder, s3://…, models:/NAME/VERSION, or models:/NAME@ALIAS, which is followed.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0: any.")] = 8_000,
    api_keys: Annotated[
        Path | None,
        typer.Option(help="File with one API key per line; required to listen beyond this machine."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Override a limit (docs/serving.md); may be repeated."),
    ] = None,
    media_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Host from which media of requests are fetched (default: none): HOST or HOST:PORT for "
            "HTTPS, http://HOST for HTTP; may be repeated.",
        ),
    ] = None,
    follow_s: _FollowSeconds = 10.0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    shutdown_delay_s: _DelaySeconds = 0.0,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Serve a trained model to applications, with the API of OpenAI's chat completions.

    SIGINT and SIGTERM let running requests end.
    """
    from llava_av.serving.http_server import listen
    from llava_av.serving.media_hosts import MediaHosts

    limits, hosts, keys = _limits(limit), MediaHosts(media_host or ()), _keys(api_keys, host)
    with contextlib.closing(listen(host, port)) as listening, _workspace(model, output_dir) as workspace:
        from llava_av.serving.app import build_app
        from llava_av.serving.http_server import run_server
        from llava_av.serving.media_fetcher import MediaFetcher
        from llava_av.serving.model_sources import ModelSource

        source = ModelSource(address=model, work=workspace.work, device=device, dtype=dtype, limits=limits)
        with _serving(source, follow_s) as current:
            fetcher = MediaFetcher(hosts, limits)
            app = build_app(current, limits=limits, keys=keys, fetcher=fetcher)
            run_server(app, listening, shutdown_delay_s=shutdown_delay_s)


def _keys(file: Path | None, host: str) -> "ApiKeys | None":
    from llava_av.serving.api_keys import ApiKeys
    from llava_av.serving.http_server import LOOPBACK_HOSTS

    if file is None and host not in LOOPBACK_HOSTS:
        raise UserError(f"--host {host} is open to other machines: add --api-keys FILE")
    return None if file is None else ApiKeys(file)


def _limits(overrides: list[str] | None) -> "ServingLimits":
    from llava_av.documents import validate
    from llava_av.serving.limits import ServingLimits

    return validate(ServingLimits, parsed_overrides(overrides, "--limit"), where="--limit", error=UserError)


@contextlib.contextmanager
def _workspace(model: str, output_dir: Path) -> Iterator[Workspace]:
    """Start the servers that the model's address needs."""
    from llava_av.checkpoints import base_in_store
    from llava_av.cli.session import require_state, session

    remote = model.startswith(("s3://", "models:/"))
    stored = model if remote else base_in_store(Path(model))
    if not stored:
        # The default handler of SIGTERM would leave temporary folders behind, and a shell may start commands
        # in the background with SIGINT ignored.
        with handling_signals(lambda number, _: sys.exit(128 + number), signal.SIGTERM, signal.SIGINT):
            yield Workspace(folder=output_dir.absolute())
        return
    require_state(output_dir, stored)
    # multiprocessing keeps its folder until the process ends, after the folder of the session is gone
    from multiprocessing.util import get_temp_dir

    get_temp_dir()
    with session(output_dir, need_mlflow=model.startswith("models:/"), on_signal="stopping …") as workspace:
        yield workspace


@contextlib.contextmanager
def _serving(source: "ModelSource", follow_s: float) -> Iterator["CurrentModel"]:
    """Load the model, and follow its alias if it has one."""
    from llava_av.serving.alias_follower import AliasFollower
    from llava_av.serving.current_model import CurrentModel

    address = source.present()
    _LOG.info("loading %s …", address)
    current = CurrentModel(source.load(address))
    with contextlib.ExitStack() as stack:
        stack.callback(current.close)
        if source.follows_alias:
            follower = AliasFollower(source, current, address, interval_s=follow_s)
            stack.callback(follower.close)
        _LOG.info("model %s is loaded", current.model.identity.fingerprint)
        yield current
