"""Two processes, every engine: parts without media are unchanged, and non-finite updates are not applied."""

import pytest

from tests.engine_group import ENGINES, run_group

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def tried():
    return run_group("tests.absent_parts", timeout_s=800)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_without_media_is_the_same_bit_for_bit_whatever_the_engine(tried, engine: str) -> None:
    assert set(tried[engine]["everything"]) == {"audio", "language", "newline", "vision"}
    assert tried[engine]["text"] == ["language"]
    assert tried[engine]["audio"] == ["audio", "language"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_with_a_part_never_updated_is_restored_exactly(tried, engine: str) -> None:
    assert tried[engine]["restored"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", ["nan", "inf"])
def test_gradients_of_one_process_that_are_not_finite_move_nothing(tried, engine: str, scale: str) -> None:
    assert tried[engine][f"times {scale}"] == {"finite": False, "moved": []}
