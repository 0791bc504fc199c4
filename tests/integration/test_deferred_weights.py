"""Two processes read a base model into their shards: the same training, and one copy in memory."""

import pytest

from tests.deferred_steps import CASES
from tests.engine_group import run_group

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def started():
    return run_group("tests.deferred_steps", timeout_s=500)


@pytest.mark.parametrize("case", CASES)
def test_training_is_the_same_bit_for_bit(started, case):
    found = started["same"][case]
    assert found["digests"][0] == found["digests"][1]
    assert found["losses"][0] == found["losses"][1]


@pytest.mark.parametrize("engine", ["torch", "zero-3"])
def test_all_processes_together_hold_the_weights_once(started, engine):
    """The largest observed ratio is 1.12; a whole model in each process would be at least 2."""
    peak = started["peaks"][engine]
    assert peak["bytes"] > 128 * 2**20
    assert 0.9 < peak["ratio"] <= 1.3
