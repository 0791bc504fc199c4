"""Simulation of the coverage of 95 % intervals: `python -m benchmarks.interval_coverage`.

In the simulated evaluations, models answer questions about clips, and questions about one clip are
correlated: with probability 0.6 the outcome of a question is that of its clip. The seed of each row is fixed.
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
    """Return the coverage of an accuracy's interval, and that of Wilson's interval over all questions.

    Args:
        trials: Number of simulated evaluations.
        clips: Number of clips of each evaluation.
        questions: Number of questions about each clip.
        share: True accuracy.
        shared: Probability that the outcome of a question is that of its clip.
    """
    answers = _answers(np.random.default_rng(0), (trials, clips, questions), share, shared)
    clusters = np.arange(clips).repeat(questions).tolist()
    ours = [clustered_wilson_interval(right.ravel().tolist(), clusters) for right in answers]
    plain = [wilson_interval(int(right.sum()), right.size) for right in answers]
    return _coverage(ours, share), _coverage(plain, share)


def covered_differences(
    trials: int, clips: int, questions: int, shares: tuple[float, float], *, draws: int = 1000
) -> tuple[float, float]:
    """Return the coverage of a difference's interval, and the rate of false positives of the test at 0.05.

    Args:
        trials: Number of simulated pairs of evaluations.
        clips: Number of clips of each evaluation.
        questions: Number of questions about each clip.
        shares: True accuracies of both models. The test compares two evaluations of the second accuracy.
        draws: Number of resamples for each interval.
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
    return _coverage(intervals, shares[0] - shares[1]), float(np.mean(np.array(p) < 0.05))


def _answers(
    generator: np.random.Generator, size: tuple[int, int, int], share: float, shared: float
) -> npt.NDArray[np.bool_]:
    """Return whether each question of each clip of each trial was answered correctly."""
    own, of_clip = generator.uniform(size=size), generator.uniform(size=(*size[:2], 1))
    return np.where(generator.uniform(size=size) < shared, of_clip, own) < share


def _coverage(intervals: list[Interval], truth: float) -> float:
    return float(np.mean([one.low - 1e-12 <= truth <= one.high + 1e-12 for one in intervals]))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--trials", type=int, default=2000, help="trials per difference; accuracies use five times as many"
    )
    trials = parser.parse_args().trials
    print("| Clips | Questions per clip | True accuracy | Coverage | Coverage of Wilson's interval |")
    print("| --- | --- | --- | --- | --- |")
    for clips, questions in _ACCURACY_CASES:
        for share in _ACCURACIES:
            ours, plain = covered_accuracies(5 * trials, clips, questions, share)
            print(f"| {clips} | {questions} | {share} | {ours:.3f} | {plain:.3f} |", flush=True)
    print("\n| Clips | Questions per clip | True accuracies | Coverage | False positives at 0.05 |")
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
