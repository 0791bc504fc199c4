"""Best checkpoint and early stopping, by held-out losses."""

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from llava_av.recipe import TrainingRecipe
from llava_av.training.selection import HeldOutLosses


def losses(found: Mapping[int, float], **settings: Any) -> HeldOutLosses:
    defaults = {"steps": 10, "global_batch_size": 2, "checkpoint_interval": 4, "validation_interval": 2}
    held_out = HeldOutLosses(TrainingRecipe(**(defaults | settings)))
    for done, loss in found.items():
        held_out.add(done, {"held_out/loss": loss})
    return held_out


def test_a_loss_is_due_at_each_interval_and_at_the_last_step() -> None:
    assert [done for done in range(1, 11) if losses({}, validation_interval=4).is_due(done)] == [4, 8, 10]
    assert not any(losses({}, validation_interval=None).is_due(done) for done in range(1, 11))


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ({2: 0.1, 4: 3.0, 6: 0.2, 8: 2.0, 10: 2.5}, (8, 2.0)),
        ({4: 2.0, 8: 2.0}, (4, 2.0)),
        ({4: math.nan, 8: 5.0}, (8, 5.0)),
        ({4: math.inf, 6: 1.0}, None),
        ({}, None),
    ],
)
def test_the_best_checkpoint_has_the_lowest_loss_of_the_steps_with_one(
    found: Mapping[int, float], best: tuple[int, float] | None
) -> None:
    assert losses(found).best() == best
    assert losses(found).best_step() == (best[0] if best else None)


def test_a_checkpoint_that_is_gone_is_not_the_best() -> None:
    assert losses({4: 1.0, 8: 2.0}).best({8, 10}) == (8, 2.0)


@pytest.mark.parametrize(
    ("found", "finished"),
    [
        ({2: 3.0, 4: 2.0, 6: 2.0}, False),
        ({2: 3.0, 4: 2.0, 6: 2.0, 8: 2.1}, True),
        ({2: 3.0, 4: 2.0, 6: 2.1, 8: 1.9}, False),
        ({2: math.nan}, False),
        ({2: math.nan, 4: math.nan}, True),
        ({}, False),
    ],
)
def test_training_ends_after_patience_measurements_without_a_new_lowest_loss(
    found: Mapping[int, float], finished: bool
) -> None:
    assert losses(found, early_stopping_patience=2).is_finished() is finished
    assert not losses(found).is_finished()


@pytest.mark.parametrize(
    ("found", "best"),
    [({2: 3.0, 4: 2.25, 6: 2.5, 8: 2.75}, r"2\.25 after step 4"), ({2: math.nan, 8: math.nan}, "none was")],
)
def test_the_log_says_why_training_ends_early(
    caplog: pytest.LogCaptureFixture, found: Mapping[int, float], best: str
) -> None:
    caplog.set_level("INFO")
    losses(found, early_stopping_patience=2).report_end(8)
    assert re.search(rf"after step 8 of 10 .*: 2 measurements .*, {best}", caplog.text)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"validation_interval": None, "result_checkpoint": "best"}, "result_checkpoint=best"),
        ({"validation_interval": None, "early_stopping_patience": 3}, "early_stopping_patience=3"),
        ({"validation_interval": 3, "result_checkpoint": "best"}, "validation_interval=3"),
    ],
)
def test_settings_that_need_held_out_losses_are_refused_without_them(
    settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        losses({}, **settings)


def test_intervals_count_from_the_first_step_of_a_stage() -> None:
    training = TrainingRecipe(steps=10, global_batch_size=2, checkpoint_interval=4, validation_interval=2)
    held_out = HeldOutLosses(training, {106: 1.0}, first_step=101)
    assert [done for done in range(102, 112) if held_out.is_due(done)] == [103, 105, 107, 109, 111]
    assert [done for done in range(102, 112) if held_out.has_checkpoint(done)] == [105, 109, 111]
    assert held_out.best() is None
    held_out.add(105, {"held_out/loss": 2.0})
    assert held_out.best() == (105, 2.0)
