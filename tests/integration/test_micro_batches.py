"""Loss and gradient of a step do not depend on how its samples are shared among processes."""

import pytest

from tests.engine_group import ENGINES, run_group


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_losses_are_those_of_one_process_and_one_pass() -> None:
    found = {
        count: run_group("tests.micro_batch_steps", timeout_s=280, processes=count) for count in (1, 2, 4)
    }
    expected = found[1]["torch"]["whole"]
    assert expected["micro_batches"] == [1, 1, 1]
    assert expected["losses"][0] > expected["losses"][-1] > 0
    for engine in ENGINES:
        for count in (1, 2, 4):
            for name, steps in found[count][engine].items():
                assert steps["losses"] == pytest.approx(expected["losses"], rel=1e-5), (engine, name, count)
                assert steps["norms"] == pytest.approx(expected["norms"], rel=1e-5), (engine, name, count)
    # Six samples of a step: with four processes, two have none in the second micro-batch.
    assert [found[count]["zero-3"]["single samples"]["micro_batches"][0] for count in (1, 2, 4)] == [6, 3, 2]
