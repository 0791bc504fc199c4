"""Two processes, every engine: bfloat16 computes, float32 is updated."""

import pytest

from tests.bf16_steps import TINY_RATE, TINY_STEPS
from tests.engine_group import ENGINES, run_group

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def tried():
    return run_group("tests.bf16_steps", timeout_s=500)


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_follow_those_of_float32_without_being_them(tried, engine: str) -> None:
    losses = tried[engine]["losses"]
    assert losses == pytest.approx(tried["fp32"], rel=0.03)
    assert losses[0] != tried["fp32"][0]


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_too_small_for_bfloat16_add_up_in_float32(tried, engine: str) -> None:
    assert tried[engine]["dtypes"] == ["torch.float32"]
    assert tried[engine]["moved"] == pytest.approx(TINY_RATE * TINY_STEPS, rel=0.1)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_whole_state_is_restored(tried, engine: str) -> None:
    assert tried[engine]["restored"]


@pytest.mark.parametrize("engine", [*ENGINES, "torch fused"])
def test_gradients_that_are_not_finite_move_nothing(tried, engine: str) -> None:
    assert not tried[engine]["moved by NaN"]
