import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.interval_coverage import covered_accuracies, covered_differences
from llava_av.evaluation.statistics import (
    Interval,
    _student_t,
    clustered_wilson_interval,
    holm_adjusted,
    paired_bootstrap,
    paired_permutation_test,
    wilson_interval,
)

answers = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=30)


@given(n=st.integers(1, 5000), data=st.data())
def test_wilson_is_scipys(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    ours = wilson_interval(successes, n)
    theirs = stats.binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert ours.value == successes / n
    # largest observed difference for n from 1 to 119, 1000 and 5000: 3.3e-16
    assert math.isclose(ours.low, theirs.low, abs_tol=1e-12)
    assert math.isclose(ours.high, theirs.high, abs_tol=1e-12)


@given(n=st.integers(1, 5000), data=st.data())
def test_wilson_holds_its_value_and_is_a_share(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    interval = wilson_interval(successes, n)
    mirrored = wilson_interval(n - successes, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low < interval.high
    assert math.isclose(interval.low, 1 - mirrored.high, abs_tol=1e-12)


def test_wilson_by_hand() -> None:
    # Brown, Cai and DasGupta's formula worked out for 9 of 10 with z = 1.959964
    interval = wilson_interval(9, 10)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.5958, 0.9821)
    assert wilson_interval(0, 10).low == 0
    assert wilson_interval(10, 10).high == 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes in {n} trials"):
        wilson_interval(successes, n)


@pytest.mark.parametrize(("share", "n"), [(0.9, 160), (0.25, 100), (0.98, 40)])
def test_wilson_covers_the_truth_95_times_in_100(share: float, n: int) -> None:
    drawn = np.random.default_rng(0).binomial(n, share, size=4000)
    intervals = [wilson_interval(int(successes), n) for successes in drawn]
    covered = np.mean([interval.low <= share <= interval.high for interval in intervals])
    # over three seeds 0.950 to 0.956
    assert 0.94 <= covered <= 0.965


@given(right=st.lists(st.booleans(), min_size=1, max_size=60))
def test_with_a_question_a_clip_it_is_wilsons(right: list[bool]) -> None:
    assert clustered_wilson_interval(right, range(len(right))) == wilson_interval(sum(right), len(right))


@given(
    answers=st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=1, max_size=60), data=st.data()
)
def test_the_clustered_interval_is_a_share_and_no_narrower(
    answers: list[tuple[bool, int]], data: st.DataObject
) -> None:
    right, clips = [one for one, _ in answers], [clip for _, clip in answers]
    interval, plain = clustered_wilson_interval(right, clips), wilson_interval(sum(right), len(right))
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.high - interval.low >= plain.high - plain.low - 1e-12
    order = data.draw(st.permutations(range(len(right))))
    again = clustered_wilson_interval([right[i] for i in order], [clips[i] for i in order])
    assert (again.low, again.high) == pytest.approx((interval.low, interval.high))


def test_the_clustered_interval_by_hand() -> None:
    # clips of 2, 2, 1 and 3 questions with 2, 0, 1 and 2 right ones: a share of 5/8, whose variance is
    # 4/3 ((3/4)^2 + (5/4)^2 + (3/8)^2 + (1/8)^2) / 64, against 5/8 * 3/8 / 8 of independent answers
    right = [True, True, False, False, True, True, True, False]
    variance = 4 / 3 * (0.75**2 + 1.25**2 + 0.375**2 + 0.125**2) / 64
    wider = stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975)
    n = 0.625 * 0.375 / (variance * wider**2)
    z = stats.norm.ppf(0.975)
    roots = np.roots([1 + z**2 / n, -(2 * 0.625 + z**2 / n), 0.625**2])
    interval = clustered_wilson_interval(right, [1, 1, 2, 2, 3, 4, 4, 4])
    # Student's t is 0.004 off at most
    assert [interval.low, interval.high] == pytest.approx(sorted(roots.real), abs=5e-4)


def test_clips_that_go_together_count_once() -> None:
    assert clustered_wilson_interval([True] * 40, np.arange(20).repeat(2).tolist()) == wilson_interval(20, 20)
    assert clustered_wilson_interval([False] * 9 + [True], ["a"] * 10) == Interval(value=0.1, low=0, high=1)
    with pytest.raises(ValueError, match=r"2 answers.* 3 clusters"):
        clustered_wilson_interval([True, False], [1, 2, 3])
    with pytest.raises(ValueError, match="0 answers"):
        clustered_wilson_interval([], [])


@pytest.mark.parametrize(
    ("clips", "questions", "share", "shared"),
    [(28, 4, 0.7, 0.6), (50, 4, 0.5, 0.6), (112, 4, 0.9, 0.6), (112, 4, 0.7, 0.0), (50, 10, 0.7, 0.6)],
)
def test_accuracies_hold_the_truth_95_times_in_100_where_questions_share_clips(
    clips: int, questions: int, share: float, shared: float
) -> None:
    ours, plain = covered_accuracies(4000, clips, questions, share, shared=shared)
    assert 0.94 <= ours <= 0.96
    assert plain < 0.86 or not shared


def test_differences_hold_the_truth_95_times_in_100_where_questions_share_clips() -> None:
    held, found = covered_differences(1000, 28, 4, (0.7, 0.5))
    assert 0.94 <= held <= 0.96
    assert found <= 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_bootstrap_is_scipys_when_each_question_has_its_clip(seed: int) -> None:
    n = 150
    generator = np.random.default_rng(seed)
    first, second = generator.uniform(size=n) < 0.85, generator.uniform(size=n) < 0.6
    ours = paired_bootstrap(first.tolist(), second.tolist(), range(n), draws=5000, seed=seed)
    theirs = stats.bootstrap(
        (first.astype(float), second.astype(float)),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=5000,
        rng=np.random.default_rng(seed + 100),
    ).confidence_interval
    assert ours.value == pytest.approx(first.mean() - second.mean())
    # the draws differ; over eight seeds the bounds lay at most one question (1/150) apart
    assert ours.low == pytest.approx(theirs.low, abs=2 / n)
    assert ours.high == pytest.approx(theirs.high, abs=2 / n)


def covered_share(*, whole_clips: bool, trials: int = 200, clips: int = 60, questions: int = 3) -> float:
    """Return the coverage of the true difference 0.3 if the answers about a clip are correlated."""
    generator = np.random.default_rng(0)
    clusters = np.arange(clips).repeat(questions) if whole_clips else np.arange(clips * questions)
    hits = 0
    for trial in range(trials):
        first = (generator.uniform(size=clips) < 0.8).repeat(questions)
        second = (generator.uniform(size=clips) < 0.5).repeat(questions)
        interval = paired_bootstrap(first.tolist(), second.tolist(), clusters.tolist(), draws=300, seed=trial)
        hits += interval.low - 1e-12 <= 0.3 <= interval.high + 1e-12
    return hits / trials


def test_bootstrap_covers_the_truth_only_if_clips_are_drawn_whole() -> None:
    # over eight seeds: 0.925 to 0.960 with whole clips, 0.67 to 0.795 with single questions
    assert 0.90 <= covered_share(whole_clips=True) <= 0.985
    assert covered_share(whole_clips=False) < 0.85


@given(rows=answers, seed=st.integers(0, 1000))
@settings(max_examples=50)
def test_bootstrap_is_seeded_bounded_and_mirrors(rows: list[tuple[bool, bool, int]], seed: int) -> None:
    first, second, clusters = (list(column) for column in zip(*rows, strict=True))
    interval = paired_bootstrap(first, second, clusters, draws=200, seed=seed)
    again = paired_bootstrap(first, second, clusters, draws=200, seed=seed)
    mirrored = paired_bootstrap(second, first, clusters, draws=200, seed=seed)
    assert interval == again
    assert -1 <= interval.low <= interval.high <= 1
    assert interval.value == pytest.approx((sum(first) - sum(second)) / len(rows))
    assert (interval.low, interval.high) == pytest.approx((-mirrored.high, -mirrored.low))


def test_one_clip_says_nothing() -> None:
    assert paired_bootstrap([True] * 9, [False] * 9, ["a"] * 9, draws=200, seed=0) == Interval(
        value=1.0, low=-1.0, high=1.0
    )


def test_equal_answers_differ_by_nothing() -> None:
    right = [True, False, True, True]
    interval = paired_bootstrap(right, right, [1, 2, 3, 4], draws=200, seed=0)
    assert interval.value == 0.0
    # Four equal clips allow for the share of other clips that four draws miss in 2.5 % of cases.
    assert (1 - interval.high) ** 4 == pytest.approx(0.025)
    assert interval.low == -interval.high
    always = paired_bootstrap([True] * 100, [False] * 100, range(100), draws=200, seed=0)
    assert always.high == 1.0
    assert (1 - (1 - always.low) / 2) ** 100 == pytest.approx(0.025)


def test_draws_in_batches_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    first, second = (generator.uniform(size=50) < 0.7).tolist(), (generator.uniform(size=50) < 0.4).tolist()
    whole = paired_bootstrap(first, second, range(50), draws=500, seed=1)
    monkeypatch.setattr("llava_av.evaluation.statistics._MOST_COUNTS_AT_ONCE", 700)
    assert paired_bootstrap(first, second, range(50), draws=500, seed=1) == whole


def test_bootstrap_refuses_answers_of_different_lengths() -> None:
    with pytest.raises(ValueError, match=r"2 and 3 answers.* 3 clusters"):
        paired_bootstrap([True, False], [True] * 3, [1, 2, 3], draws=200, seed=0)
    with pytest.raises(ValueError, match="0 questions"):
        paired_bootstrap([], [], [], draws=200, seed=0)


def discordant(first: int, second: int, both: int = 3) -> tuple[list[bool], list[bool]]:
    """Return answers that only the first, only the second or both models got right."""
    return [True] * first + [False] * second + [True] * both, [False] * first + [True] * (second + both)


@given(first=st.integers(0, 25), second=st.integers(0, 25))
def test_the_exact_test_is_mcnemars_where_each_question_has_its_clip(first: int, second: int) -> None:
    one, other = discordant(first, second)
    found = paired_permutation_test(one, other, range(len(one)))
    discordants = first + second
    expected = stats.binomtest(first, discordants).pvalue if discordants else 1.0
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_exact_test_by_hand() -> None:
    # 150 questions, 25 and 12 of them discordant: 2 * P(X <= 12) with X ~ B(37, 1/2)
    one, other = discordant(25, 12, 113)
    expected = 2 * sum(math.comb(37, k) for k in range(13)) / 2**37
    assert paired_permutation_test(one, other, range(150)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_test_is_scipys_permutation_of_whole_clips(seed: int) -> None:
    generator = np.random.default_rng(seed)
    clips = np.arange(10).repeat(3)
    first, second = generator.uniform(size=30) < 0.7, generator.uniform(size=30) < 0.4
    sums = np.bincount(clips, weights=first.astype(int) - second.astype(int))

    def total(differences: np.ndarray, axis: int) -> np.ndarray:
        return np.sum(differences, axis=axis)

    exact = stats.permutation_test(
        (sums,), total, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    found = paired_permutation_test(first.tolist(), second.tolist(), clips.tolist())
    assert found == pytest.approx(exact.pvalue)


def test_the_exact_test_finds_a_difference_as_rarely_as_it_says_where_there_is_none() -> None:
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(400):
        # The same clips are easy for both models, which a test of single questions counts as agreement.
        easy = generator.uniform(size=(30, 1))
        first, second = (generator.uniform(size=(30, 4)) < easy for _ in range(2))
        clusters = np.arange(30).repeat(4)
        p = paired_permutation_test(first.ravel().tolist(), second.ravel().tolist(), clusters.tolist())
        found += p < 0.05
    assert 0.02 <= found / 400 <= 0.07


def test_holm_by_hand() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_adjusted([]) == []
    assert holm_adjusted([0.9, 0.8]) == [1.0, 1.0]


def test_students_t_is_scipys() -> None:
    for freedom in range(1, 300):
        assert _student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=0.004)
