"""Two processes read a base or fresh model into their shards: the same training, and one copy in memory."""

import pytest

from tests.deferred_steps import CASES
from tests.engine_group import run_group

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def started():
    return run_group("tests.deferred_steps", timeout_s=500)


@pytest.mark.parametrize("case", [*CASES, "torch fresh", "zero-2 fresh", "zero-3 fresh"])
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


@pytest.mark.parametrize("engine", ["torch", "zero-3"])
def test_one_process_of_a_node_builds_a_fresh_model(started, engine):
    """The largest observed ratio is 1.09; a whole model in each process would be at least 2."""
    peak = started["fresh peaks"][engine]
    assert peak["bytes"] > 128 * 2**20
    assert 0.9 < peak["building"] <= 1.3
    assert 0.9 < peak["ratio"] <= 1.3
    assert peak["files"] == 0
