"""How often 95 % intervals hold the truth, by simulation: `python -m benchmarks.interval_coverage`.

Models answer questions about clips. How hard a clip is, is shared by its questions: with probability 0.6 a
question's luck is its clip's. Each line is so many simulated evaluations, whose seed is fixed.
"""

import argparse

import numpy as np
import numpy.typing as npt

from llava_av.evaluation.statistics import (
    Interval,
    clustered_wilson_interval,
    paired_bootstrap,
    paired_permutation_test,
    wilson_interval,
)

__all__ = ["covered_accuracies", "covered_differences"]

_SHARED = 0.6
_ACCURACY_CASES = ((16, 4), (28, 4), (50, 2), (50, 4), (50, 10), (112, 4), (112, 10), (300, 4), (112, 1))
_ACCURACIES = (0.5, 0.7, 0.9)
_CASES = ((16, 4), (28, 4), (50, 4), (112, 4), (112, 1), (300, 1))
_SHARES = ((0.7, 0.5), (0.9, 0.4))


def covered_accuracies(
    trials: int, clips: int, questions: int, share: float, *, shared: float = _SHARED
) -> tuple[float, float]:
    """How often the interval of an accuracy holds the true share, and how often Wilson's of all questions.

    Args:
        trials: simulated evaluations.
        clips: clips of each.
        questions: questions about each clip.
        share: true share of right answers.
        shared: probability that a question's luck is its clip's.
    """
    answers = _answers(np.random.default_rng(0), (trials, clips, questions), share, shared)
    clusters = np.arange(clips).repeat(questions).tolist()
    ours = [clustered_wilson_interval(right.ravel().tolist(), clusters) for right in answers]
    plain = [wilson_interval(int(right.sum()), right.size) for right in answers]
    return _held(ours, share), _held(plain, share)


def covered_differences(
    trials: int, clips: int, questions: int, shares: tuple[float, float], *, draws: int = 1000
) -> tuple[float, float]:
    """How often the interval of a difference holds the true one, and the test is below 0.05 without one.

    Args:
        trials: simulated pairs of evaluations.
        clips: clips of each.
        questions: questions about each clip.
        shares: true shares of right answers of both models; the test compares two of the second one's.
        draws: resamples behind each interval.
    """
    generator, size = np.random.default_rng(0), (trials, clips, questions)
    first, second, equal = (
        _answers(generator, size, share, _SHARED).reshape(trials, -1).tolist()
        for share in (*shares, shares[1])
    )
    clusters = np.arange(clips).repeat(questions).tolist()
    intervals = [
        paired_bootstrap(one, other, clusters, draws=draws, seed=trial)
        for trial, (one, other) in enumerate(zip(first, second, strict=True))
    ]
    p = [paired_permutation_test(*pair, clusters) for pair in zip(equal, second, strict=True)]
    return _held(intervals, shares[0] - shares[1]), float(np.mean(np.array(p) < 0.05))


def _answers(
    generator: np.random.Generator, size: tuple[int, int, int], share: float, shared: float
) -> npt.NDArray[np.bool_]:
    """Whether each question of each clip of each trial was answered rightly."""
    own, luck = generator.uniform(size=size), generator.uniform(size=(*size[:2], 1))
    return np.where(generator.uniform(size=size) < shared, luck, own) < share


def _held(intervals: list[Interval], truth: float) -> float:
    return float(np.mean([one.low - 1e-12 <= truth <= one.high + 1e-12 for one in intervals]))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--trials", type=int, default=2000, help="of a difference; five times as many of an accuracy"
    )
    trials = parser.parse_args().trials
    print("| clips | questions a clip | true share | interval holds it | Wilson's of all questions |")
    print("| --- | --- | --- | --- | --- |")
    for clips, questions in _ACCURACY_CASES:
        for share in _ACCURACIES:
            ours, plain = covered_accuracies(5 * trials, clips, questions, share)
            print(f"| {clips} | {questions} | {share} | {ours:.3f} | {plain:.3f} |", flush=True)
    print("\n| clips | questions a clip | true shares | interval holds the truth | test below 0.05 by luck |")
    print("| --- | --- | --- | --- | --- |")
    for clips, questions in _CASES:
        for shares in _SHARES:
            held, found = covered_differences(trials, clips, questions, shares)
            print(
                f"| {clips} | {questions} | {shares[0]} and {shares[1]} | {held:.3f} | {found:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
