"""Intervals: of one share, and of the difference of two shares on the same questions."""

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

__all__ = ["CONFIDENCE", "Interval", "paired_bootstrap", "wilson_interval"]

CONFIDENCE = 0.95
_MOST_COUNTS_AT_ONCE = 2_000_000


class Interval(BaseModel):
    """A value with the interval that holds the truth with 95 % confidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float


def wilson_interval(successes: int, n: int) -> Interval:
    """Wilson's score interval of a share, without continuity correction.

    It keeps its confidence for small n and for shares near 0 and 1, where the textbook interval collapses
    to a point. It takes the n trials as independent; questions about one clip are not quite, so it is a
    little narrow for them.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22 (1927), 209-212; recommended by L. D. Brown,
    T. T. Cai and A. DasGupta, "Interval Estimation for a Binomial Proportion", Statistical Science 16
    (2001), 101-133.

    Raises:
        ValueError: n below 1, or successes outside 0 to n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"no share of {successes} successes in {n} trials")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # at the ends one bound is the end itself; rounding must not leave it a hair off
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(value=share, low=low, high=high)


def paired_bootstrap(
    first: Sequence[bool],
    second: Sequence[bool],
    clusters: Sequence[Hashable],
    *,
    draws: int,
    seed: int,
) -> Interval:
    """Percentile interval of mean(first) - mean(second), questions paired, clips resampled whole.

    Questions about one clip go right or wrong together, so clips (clusters) and not questions are drawn
    with replacement. With a single cluster nothing is known about the spread and the interval is -1 to 1.

    Sources: B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13, for
    the percentile interval; A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application"
    (1997), section 3.8, for drawing whole clusters.

    Args:
        first: whether each question was answered rightly one way, [n].
        second: the same questions in the same order, answered the other way, [n].
        clusters: the clip of each question, [n].
        draws: number of resamples.
        seed: seed of the draws.

    Raises:
        ValueError: lengths that differ, no question, or no draw.
    """
    if not len(first) == len(second) == len(clusters):
        raise ValueError(f"{len(first)} against {len(second)} answers of {len(clusters)} clusters")
    if not first or draws < 1:
        raise ValueError(f"no bootstrap of {len(first)} questions with {draws} draws")
    order = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    members = np.array([order[cluster] for cluster in clusters])
    gains = np.asarray(first, dtype=np.int64) - np.asarray(second, dtype=np.int64)
    sums = np.bincount(members, weights=gains, minlength=len(order)).astype(np.float64)
    sizes = np.bincount(members, minlength=len(order)).astype(np.float64)
    value = float(sums.sum() / sizes.sum())
    if len(order) == 1:
        return Interval(value=value, low=-1.0, high=1.0)
    drawn = _resampled_means(sums, sizes, draws, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def _resampled_means(
    sums: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.float64],
    draws: int,
    generator: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Means over resampled clusters, [draws]; how often each cluster is drawn is a multinomial."""
    clusters = len(sums)
    batch = max(1, _MOST_COUNTS_AT_ONCE // clusters)
    means = []
    for start in range(0, draws, batch):
        size = min(batch, draws - start)
        counts = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=size)
        means.append((counts @ sums) / (counts @ sizes))
    return np.concatenate(means)
