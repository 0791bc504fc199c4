"""TensorBoard and Weights & Biases, which show a training beside MLflow if `LLAVA_AV_TRACKERS` names them."""

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_av.errors import UserError
from llava_av.runs import RunRequest
from llava_av.tracking.description import run_name, run_parameters
from llava_av.tracking.follower import Tracker

__all__ = ["TRACKERS_VARIABLE", "chosen_trackers"]

TRACKERS_VARIABLE = "LLAVA_AV_TRACKERS"
_KEPT = "the journal of the run keeps all metrics"


def chosen_trackers(request: RunRequest, folder: Path) -> list[Tracker]:
    """Return the trackers that the environment names, separated by commas.

    Args:
        request: Request of the run.
        folder: Folder for their files, which each puts below its own name.

    Raises:
        UserError: A tracker is unknown, or its package is not installed.
    """
    names = [name.strip() for name in os.environ.get(TRACKERS_VARIABLE, "").split(",") if name.strip()]
    for name in names:
        if name not in _KINDS:
            raise UserError(f"{TRACKERS_VARIABLE}={name!r} must be one of {', '.join(_KINDS)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"{TRACKERS_VARIABLE} names {name}, which is not installed: pip install 'llava-av[trackers]'"
            )
    return [_KINDS[name](request, folder / name) for name in dict.fromkeys(names)]


class _TensorBoard:
    """Event files of a run, in a folder of its own."""

    NAME = "TensorBoard"
    REMEDY = _KEPT

    def __init__(self, request: RunRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder / request.run
        self._writer: Any = None
        self._last = -1.0

    def log(self, batches: Iterable[Sequence[Mapping[str, float]]], *, ended: str = "") -> str:
        """Write the rows; see `Tracker.log`."""
        if self._writer is None:
            self._writer = self._open()
        for rows in batches:
            for row in rows:
                if row["step"] > self._last:
                    self._write(row)
        self._writer.close() if ended else self._writer.flush()
        return str(self._folder)

    def _open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        # A resumed training logs the whole journal again, in place of what its earlier jobs logged.
        writer: Any = SummaryWriter(str(self._folder), purge_step=0)
        table = "".join(f"| {name} | {value} |\n" for name, value in run_parameters(self._request).items())
        writer.add_text(run_name(self._request), f"| parameter | value |\n| --- | --- |\n{table}")
        return writer

    def _write(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(f"train/{name}", value, int(row["step"]))
        self._last = row["step"]


class _Wandb:
    """Run of Weights & Biases; its own variables, such as `WANDB_MODE=offline`, apply."""

    NAME = "Weights & Biases"
    REMEDY = _KEPT

    def __init__(self, request: RunRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self._run: Any = None

    def log(self, batches: Iterable[Sequence[Mapping[str, float]]], *, ended: str = "") -> str:
        """Send the rows; see `Tracker.log`."""
        if self._run is None:
            self._run = self._open()
        for rows in batches:
            for row in rows:
                # The server has the steps of earlier jobs; a resumed training computes the same again.
                if row["step"] >= self._run.step:
                    named = {f"train/{name}": value for name, value in row.items() if name != "step"}
                    self._run.log(named, step=int(row["step"]))
        if ended:
            import wandb

            self._run.finish(exit_code=int(ended != "FINISHED"))
            # `finish` may return before the process that writes and sends has done so.
            wandb.teardown()
        return str(self._request.run)

    def _open(self) -> Any:
        import wandb

        # wandb itself creates the folder `wandb` in it.
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self._request.experiment.id,
            id=self._request.run,
            name=run_name(self._request),
            config=run_parameters(self._request),
            dir=str(self._folder.parent),
            resume="allow",
            settings=wandb.Settings(silent=True, disable_git=True, disable_code=True, console="off"),
        )


_KINDS: dict[str, Callable[[RunRequest, Path], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}
