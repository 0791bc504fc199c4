"""Two processes: an optimizer in host memory trains, saves and restores as one on the device."""

import math

import pytest

from tests.engine_group import run_group
from tests.offload_steps import PRECISIONS, STAGES

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

CASES = [f"{stage} {precision}" for stage in STAGES for precision in PRECISIONS]
# The worst case measured is 4.8e-7: the norm of a gradient is summed in another order.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tried():
    return run_group("tests.offload_steps", timeout_s=350)


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradient_norms_are_those_of_an_optimizer_on_the_device(tried, case):
    assert tried[case]["offloaded"] == pytest.approx(tried[case]["plain"], rel=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_optimizers_on_device_and_host_restore_each_others_checkpoints(tried, case):
    for same, loaded, saved in tried[case]["restored"]:
        assert same
        assert loaded == pytest.approx(saved, rel=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_a_gradient_that_is_not_finite_changes_no_later_step(tried, case):
    assert tried[case]["nan"] == {"finite": False, "same": True}
    assert all(map(math.isfinite, tried[case]["after"]))
