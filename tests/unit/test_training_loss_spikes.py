"""Loss spikes: which steps are far above the median of the steps before."""

import math
import random

import pytest

from llava_av.training.loss_spikes import LEAST, WINDOW, SpikeDetector


def noisy(steps: int, *, mean: float = 2.0, noise: float = 0.1) -> list[float]:
    draw = random.Random(0)
    return [mean + draw.gauss(0, noise) for _ in range(steps)]


def test_a_loss_far_above_the_noise_is_a_spike_and_names_the_median() -> None:
    detector = SpikeDetector(noisy(WINDOW))
    assert detector.add(4.0) == pytest.approx(2.0, abs=0.05)
    assert detector.add(2.1) is None


def test_noise_a_falling_loss_and_a_drop_are_no_spikes() -> None:
    detector = SpikeDetector()
    losses = [*noisy(1000), *(2.0 * 0.99**step for step in range(500)), 0.0]
    assert [loss for loss in losses if detector.add(loss) is not None] == []


@pytest.mark.parametrize(("loss", "is_spike"), [(1.29, False), (1.31, True)])
def test_without_noise_a_loss_must_be_30_percent_above_the_median(loss: float, is_spike: bool) -> None:
    assert (SpikeDetector([1.0] * WINDOW).add(loss) is not None) is is_spike


def test_the_first_steps_have_no_median() -> None:
    detector = SpikeDetector([1.0] * (LEAST - 1))
    assert detector.add(100.0) is None
    assert detector.add(100.0) is not None


def test_the_median_adapts_to_a_lasting_change() -> None:
    detector = SpikeDetector([1.0] * WINDOW)
    assert [detector.add(3.0) is not None for _ in range(WINDOW)].count(True) == WINDOW // 2
    assert detector.add(3.0) is None


def test_losses_that_are_not_finite_do_not_count() -> None:
    detector = SpikeDetector([math.nan, *[1.0] * LEAST])
    assert detector.add(math.inf) is None
    assert detector.add(math.nan) is None
    assert detector.add(5.0) == 1.0
