"""Confidence intervals of an accuracy and of a paired difference, and an exact paired test."""

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from llava_av.runs import Interval

__all__ = [
    "CONFIDENCE",
    "clustered_wilson_interval",
    "holm_adjusted",
    "paired_bootstrap",
    "paired_permutation_test",
    "wilson_interval",
]

CONFIDENCE = 0.95
_MOST_COUNTS_AT_ONCE = 2_000_000


def wilson_interval(successes: int, n: int) -> Interval:
    """Compute Wilson's score interval of a share, without continuity correction.

    It keeps its confidence for small n and for shares near 0 and 1, where the textbook interval collapses
    to a point. It assumes independent trials. Questions about one clip are not independent; use
    `clustered_wilson_interval` for them.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22 (1927), 209-212; recommended by L. D. Brown,
    T. T. Cai and A. DasGupta, "Interval Estimation for a Binomial Proportion", Statistical Science 16
    (2001), 101-133.

    Raises:
        ValueError: n is below 1, or `successes` is not in 0 to n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(
            f"{successes} successes in {n} trials is not a share: n must be ≥ 1 and successes in 0 to n"
        )
    return _wilson(successes / n, n)


def clustered_wilson_interval(correct: Sequence[bool], clusters: Sequence[Hashable]) -> Interval:
    """Compute Wilson's interval of the share of correct answers with the effective number of answers.

    Answers about one clip (cluster) are correlated, so n of them carry less information than n answers about
    n clips. The design effect is the variance of the share between clips, divided by the variance for
    independent answers. The effective number is n divided by the design effect and by the squared ratio of
    the quantiles of Student's t and the normal distribution; it is at most n. If all answers are equally
    right, the variance is zero, and all answers of a clip count as about one. With one question per clip the
    result equals `wilson_interval`. A single clip with several questions gives 0 to 1.

    Sources: E. L. Korn and B. I. Graubard, "Confidence Intervals for Proportions with Small Expected Number
    of Positive Counts Estimated from Survey Data", Survey Methodology 24 (1998), 193-201, for the effective
    number; N. Dean and M. Pagano, "Evaluating Confidence Interval Methods for Binomial Proportions in
    Clustered Surveys", Journal of Survey Statistics and Methodology 3 (2015), 484-503, for Wilson's
    interval with it.

    Args:
        correct: Correctness of each answer, [n].
        clusters: Clip of each question, [n].

    Raises:
        ValueError: The lengths differ, or there is no question.
    """
    if len(correct) != len(clusters) or not len(correct):
        raise ValueError(
            f"got {len(correct)} answers and {len(clusters)} clusters: expected equal numbers ≥ 1"
        )
    sums, sizes = _by_cluster(np.asarray(correct, dtype=np.int64), clusters)
    share = float(sums.sum() / sizes.sum())
    if len(sums) == 1 and len(correct) > 1:
        return Interval(value=share, low=0.0, high=1.0)
    return _wilson(share, _effective_number(sums, sizes, share))


def paired_bootstrap(
    first: Sequence[bool],
    second: Sequence[bool],
    clusters: Sequence[Hashable],
    *,
    draws: int,
    seed: int,
) -> Interval:
    """Compute a percentile interval of mean(first) - mean(second) for paired questions.

    Answers about one clip (cluster) are correlated, so whole clips are drawn with replacement. A resample of
    k clusters varies too little, so the percentiles are expanded; without that, 95 % intervals of 20 to 30
    clips cover the true value in 92 to 93 % of cases (docs/evaluation.md). With a single cluster the spread
    is unknown, and the interval is -1 to 1. If all clusters have the same difference, resamples have no
    spread; the interval then allows for the largest share of other clusters that a sample of this size
    misses with a probability of 2.5 %.

    Sources: B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13, for
    the percentile interval; A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application"
    (1997), section 3.8, for drawing whole clusters; T. C. Hesterberg, "What Teachers Should Know About the
    Bootstrap", The American Statistician 69 (2015), 371-386, for the expanded percentiles; J. A. Hanley and
    A. Lippman-Hand, "If Nothing Goes Wrong, Is Everything All Right?", JAMA 249 (1983), 1743-1745, for
    the upper limit after k clusters without an event.

    Args:
        first: Correctness of the first answer to each question, [n].
        second: Correctness of the second answer to each question, in the same order, [n].
        clusters: Clip of each question, [n].
        draws: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        ValueError: The lengths differ, there is no question, or `draws` is below 1.
    """
    if not len(first) == len(second) == len(clusters):
        raise ValueError(
            f"got {len(first)} and {len(second)} answers, {len(clusters)} clusters: must be equal and ≥ 1"
        )
    if not first or draws < 1:
        raise ValueError(f"cannot resample {len(first)} questions {draws} times: both numbers must be ≥ 1")
    sums, sizes = _by_cluster(_gains(first, second), clusters)
    value = float(sums.sum() / sizes.sum())
    if len(sums) == 1:
        return Interval(value=value, low=-1.0, high=1.0)
    if np.all(sums * sizes[0] == sums[0] * sizes):
        missed = 1 - ((1 - CONFIDENCE) / 2) ** (1 / len(sums))
        return Interval(value=value, low=value - missed * (value + 1), high=value + missed * (1 - value))
    drawn = _resampled_means(sums, sizes, draws, np.random.default_rng(seed))
    tail = _expanded_tail(len(sums))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def paired_permutation_test(
    first: Sequence[bool], second: Sequence[bool], clusters: Sequence[Hashable]
) -> float:
    """Compute the exact two-sided p value of "both are equally good" for paired questions.

    Under the null hypothesis the two sets of answers about a clip are exchangeable, so each clip's difference
    is as likely as its negative. The p value is the share of all 2^clips sign changes with a summed
    difference at least as far from 0 as the observed one. Differences are integers, so the distribution of
    sums is computed exactly, one clip after the other. With one question per clip this is McNemar's exact
    test; with several, McNemar's test would treat answers about one clip as independent.

    Sources: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947), 153-157; R. A. Fisher, "The Design of Experiments" (1935),
    section 21, for the exchange of signs.

    Args:
        first: Correctness of the first answer to each question, [n].
        second: Correctness of the second answer to each question, in the same order, [n].
        clusters: Clip of each question, [n].

    Raises:
        ValueError: The lengths differ, or there is no question.
    """
    if not len(first) == len(second) == len(clusters) or not first:
        raise ValueError(
            f"got {len(first)} and {len(second)} answers, {len(clusters)} clusters: must be equal and ≥ 1"
        )
    sums = _by_cluster(_gains(first, second), clusters)[0].astype(np.int64)
    steps = np.abs(sums[sums != 0])
    reach = int(steps.sum())
    chances = np.zeros(2 * reach + 1)
    chances[reach] = 1.0
    for step in steps:
        # Every sum lies in -reach to reach, so np.roll wraps only zeros.
        chances = (np.roll(chances, step) + np.roll(chances, -step)) / 2
    distances = np.abs(np.arange(-reach, reach + 1))
    return min(1.0, float(chances[distances >= abs(int(sums.sum()))].sum()))


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for multiple tests: under the null, one is below 0.05 in at most 5 % of cases.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979), 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _wilson(share: float, n: float) -> Interval:
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At a share of 0 or 1 one bound is exactly 0 or 1, without rounding errors.
    low = 0.0 if share == 0 else centre - half
    high = 1.0 if share == 1 else centre + half
    return Interval(value=share, low=low, high=high)


def _effective_number(sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], share: float) -> float:
    n, clusters = float(sizes.sum()), len(sums)
    if n == clusters:
        return n
    if share in (0.0, 1.0):
        return n * n / float((sizes**2).sum())
    variance = clusters / (clusters - 1) * float(((sums - share * sizes) ** 2).sum()) / n**2
    wider = _student_t(clusters - 1) / NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    least = share * (1 - share) / n
    return least / max(least, variance * wider**2) * n


def _gains(first: Sequence[bool], second: Sequence[bool]) -> npt.NDArray[np.int64]:
    return np.asarray(first, dtype=np.int64) - np.asarray(second, dtype=np.int64)


def _by_cluster(
    values: npt.NDArray[np.int64], clusters: Sequence[Hashable]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the sum of the values and the number of questions of each cluster."""
    order = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    members = np.array([order[cluster] for cluster in clusters])
    sums = np.bincount(members, weights=values, minlength=len(order)).astype(np.float64)
    return sums, np.bincount(members, minlength=len(order)).astype(np.float64)


def _expanded_tail(clusters: int) -> float:
    """Return the share of resamples beyond each end of the interval."""
    normal = NormalDist()
    wider = math.sqrt(clusters / (clusters - 1)) * _student_t(clusters - 1)
    return normal.cdf(-wider)


def _student_t(freedom: int) -> float:
    """Return the quantile of Student's t at the upper end of `CONFIDENCE`.

    It is exact for 1 and 2 degrees of freedom. Otherwise it is the asymptotic expansion 26.7.5 of
    M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions" (1964), error at most 0.004.
    """
    upper = (1 + CONFIDENCE) / 2
    if freedom == 1:
        return math.tan(math.pi * (upper - 0.5))
    if freedom == 2:
        return (2 * upper - 1) / math.sqrt(2 * upper * (1 - upper))
    z, v = NormalDist().inv_cdf(upper), freedom
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(sum(term / v**power for power, term in enumerate(terms)))


def _resampled_means(
    sums: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.float64],
    draws: int,
    generator: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Return the means over resampled clusters, [draws]; the counts of the clusters are multinomial."""
    clusters = len(sums)
    batch = max(1, _MOST_COUNTS_AT_ONCE // clusters)
    means = []
    for start in range(0, draws, batch):
        size = min(batch, draws - start)
        counts = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=size)
        means.append((counts @ sums) / (counts @ sizes))
    return np.concatenate(means)
