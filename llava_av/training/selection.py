"""Choice of the best checkpoint, and early stopping, by the held-out losses that the journal keeps."""

import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import distributed

from llava_av.checkpoints import whole_checkpoints
from llava_av.recipe import TrainingRecipe
from llava_av.runs import BestCheckpoint, Run
from llava_av.training.validation import HELD_OUT_LOSS, Validator

__all__ = ["HeldOut", "HeldOutLosses", "best_checkpoint", "is_checkpoint_step", "read_losses"]

_LOG = logging.getLogger(__name__)


def is_checkpoint_step(done: int, training: TrainingRecipe) -> bool:
    """Return whether the recipe has a checkpoint after this number of steps of a stage."""
    return done % training.checkpoint_interval == 0 or done == training.steps


class HeldOutLosses:
    """Held-out losses by the number of completed optimizer steps; equal in all processes."""

    def __init__(
        self, training: TrainingRecipe, losses: Mapping[int, float] | None = None, *, first_step: int = 0
    ) -> None:
        """Keep earlier losses.

        Args:
            training: Intervals and numbers of the recipe, which count from the first step.
            losses: Losses measured so far.
            first_step: First step of the stage.
        """
        self._training = training
        self._first_step = first_step
        self._losses = dict(losses or {})

    def is_due(self, done: int) -> bool:
        """Return whether the loss is measured after this number of steps."""
        interval, done = self._training.validation_interval, done - self._first_step
        return interval is not None and (done % interval == 0 or done == self._training.steps)

    def has_checkpoint(self, done: int) -> bool:
        """Return whether the recipe has a checkpoint after this number of steps."""
        return is_checkpoint_step(done - self._first_step, self._training)

    def add(self, done: int, metrics: Mapping[str, float]) -> None:
        """Keep the loss of a measurement."""
        self._losses[done] = metrics.get(HELD_OUT_LOSS, math.nan)

    def best(self, steps: Collection[int] | None = None) -> tuple[int, float] | None:
        """Return step and loss of the best checkpoint, the earliest of equal ones; None if none has a loss.

        Args:
            steps: Steps of the existing checkpoints; None for all that the recipe has.
        """
        return _lowest(
            {
                done: loss
                for done, loss in self._losses.items()
                if (done in steps if steps is not None else self.has_checkpoint(done))
            }
        )

    def best_step(self) -> int | None:
        """Return the step of the best checkpoint; None if none has a loss."""
        best = self.best()
        return None if best is None else best[0]

    def is_finished(self) -> bool:
        """Return whether the latest measurements in a row without a new lowest loss end the training."""
        patience = self._training.early_stopping_patience
        lowest = _lowest(self._losses)
        if patience is None or not self._losses:
            return False
        later = self._losses if lowest is None else [done for done in self._losses if done > lowest[0]]
        return len(later) >= patience

    def report_end(self, done: int) -> None:
        """Log that training, or its stage, ends after this number of steps, before the planned one."""
        lowest = _lowest(self._losses)
        best = (
            "none was finite" if lowest is None else f"{lowest[1]:.4g} after step {lowest[0]} is the lowest"
        )
        _LOG.info(
            "early stopping after step %d of %d planned: %d measurements in a row without a new lowest "
            "held-out loss, %s",
            done,
            self._first_step + self._training.steps,
            self._training.early_stopping_patience,
            best,
        )


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out losses of a training so far, and the validator that measures further ones."""

    validator: Validator | None
    """None if the recipe has no `validation_interval`, so that no measurement is due."""
    losses: HeldOutLosses

    def measure(self, done: int) -> dict[str, float]:
        """Measure and add the loss after this number of steps; return it as metrics of the step."""
        assert self.validator is not None, "no measurement is due without training.validation_interval"
        metrics = self.validator.measure()
        self.losses.add(done, metrics)
        return metrics


def read_losses(
    training: TrainingRecipe, rows: Iterable[Mapping[str, float]], *, first_step: int = 0
) -> HeldOutLosses:
    """Return the losses of a stage in the rows of rank zero's journal; all processes call it together.

    Args:
        training: See `HeldOutLosses`.
        rows: Rows of the journal.
        first_step: First step of the stage.
    """
    own = [row for row in rows if HELD_OUT_LOSS in row and row["step"] >= first_step]
    found: list[dict[int, float]] = [{int(row["step"]) + 1: row[HELD_OUT_LOSS] for row in own}]
    distributed.broadcast_object_list(found, src=0)
    return HeldOutLosses(training, found[0], first_step=first_step)


def best_checkpoint(run: Run, losses: HeldOutLosses) -> BestCheckpoint | None:
    """Return the whole checkpoint of a run with the lowest held-out loss; None if none has a loss."""
    found = {one.step: one for one in whole_checkpoints(run.store, run.id)} if losses.best_step() else {}
    best = losses.best(found)
    if best is None:
        return None
    step, loss = best
    return BestCheckpoint(uri=found[step].uri, digest=found[step].digest, step=step, held_out_loss=loss)


def _lowest(losses: Mapping[int, float]) -> tuple[int, float] | None:
    finite = ((loss, done) for done, loss in losses.items() if math.isfinite(loss))
    loss, done = min(finite, default=(math.nan, 0))
    return (done, loss) if done else None
