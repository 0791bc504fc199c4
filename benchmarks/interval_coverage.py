"""How often 95 % intervals hold the truth, by simulation: `python -m benchmarks.interval_coverage`.

Two models answer the same questions about the same clips. How hard a clip is, is shared by its questions:
with probability 0.6 a question's luck is its clip's. Each line is so many simulated evaluations.
"""

import argparse

import numpy as np

from llava_av.evaluation.statistics import paired_bootstrap, paired_permutation_test, wilson_interval

_SHARED = 0.6
_CASES = ((16, 4), (28, 4), (50, 4), (112, 4), (112, 1), (300, 1))
_SHARES = ((0.7, 0.5), (0.9, 0.4))


def _answers(generator: np.random.Generator, clips: int, questions: int, share: float) -> np.ndarray:
    own = generator.uniform(size=(clips, questions))
    luck = generator.uniform(size=(clips, 1))
    return np.where(generator.uniform(size=own.shape) < _SHARED, luck, own) < share


def _paired(trials: int, clips: int, questions: int, shares: tuple[float, float]) -> tuple[float, float]:
    """Shares of evaluations whose interval holds the truth, and whose test is below 0.05 without one."""
    generator, held, found = np.random.default_rng(0), 0, 0
    clusters = np.arange(clips).repeat(questions).tolist()
    truth = shares[0] - shares[1]
    for trial in range(trials):
        first, second = (_answers(generator, clips, questions, share).ravel().tolist() for share in shares)
        interval = paired_bootstrap(first, second, clusters, draws=1000, seed=trial)
        held += interval.low - 1e-12 <= truth <= interval.high + 1e-12
        equal = _answers(generator, clips, questions, shares[1]).ravel().tolist()
        found += paired_permutation_test(equal, second, clusters) < 0.05
    return held / trials, found / trials


def _wilson(trials: int, n: int, share: float) -> float:
    drawn = np.random.default_rng(0).binomial(n, share, size=trials)
    intervals = [wilson_interval(int(successes), n) for successes in drawn]
    return float(np.mean([interval.low <= share <= interval.high for interval in intervals]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    trials = parser.parse_args().trials
    print("| clips | questions a clip | true shares | interval holds the truth | test below 0.05 by luck |")
    print("| --- | --- | --- | --- | --- |")
    for clips, questions in _CASES:
        for shares in _SHARES:
            held, found = _paired(trials, clips, questions, shares)
            print(
                f"| {clips} | {questions} | {shares[0]} and {shares[1]} | {held:.3f} | {found:.3f} |",
                flush=True,
            )
    for n, share in ((100, 0.25), (160, 0.9), (1000, 0.6)):
        print(f"Wilson, n = {n}, share {share}: {_wilson(10 * trials, n, share):.3f}")


if __name__ == "__main__":
    main()
