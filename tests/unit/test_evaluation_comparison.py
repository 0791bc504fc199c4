import pytest

from llava_av.evaluation.comparison import compare_predictions, paired_differences, require_same_task
from llava_av.evaluation.scoring import EvaluationError, score
from llava_av.runs import CheckpointName, EvaluatedDataset, EvaluationResult, Prediction, TaskNote


def answers(right: set[int], n: int = 40) -> list[Prediction]:
    return [
        score(
            sample_id=str(index),
            ablation=ablation,
            kind="joint_colour" if index % 2 else "visual",
            question="?",
            choices=("red", "blue"),
            answer="red",
            reply="red" if index in right and ablation == "av" else "blue" if index % 3 else "hm",
            loss=1.0,
            clip=f"{index // 4}.mp4",
        )
        for ablation in ("av", "text_only")
        for index in range(n)
    ]


def test_a_model_that_is_right_more_often_is_found_to_be() -> None:
    compared = compare_predictions(answers(set(range(36))), answers(set(range(12))))
    whole = compared.all
    assert (whole.first, whole.second, whole.n, whole.clips) == (0.9, 0.3, 40, 10)
    assert (whole.only_first, whole.only_second) == (24, 0)
    assert whole.difference.value == pytest.approx(0.6)
    assert whole.difference.low > 0
    # six clips differ, all the same way: 2 of 2^6 swaps are as extreme
    assert whole.p == pytest.approx(2 / 2**6)
    assert list(compared.kinds) == ["joint_colour", "visual"]
    assert compared.kinds["visual"].p == pytest.approx(min(1, 2 * 2 / 2**6))
    assert whole.unparsed == (2, 10)


def test_the_other_way_round_is_the_mirror() -> None:
    one, other = answers({1, 2, 3, 20}), answers({3, 4, 5, 6, 7, 30})
    there, back = (compare_predictions(*pair) for pair in ((one, other), (other, one)))
    assert there.all.difference.low == pytest.approx(-back.all.difference.high)
    assert there.all.p == back.all.p


def test_every_way_to_compare_a_pair_gives_the_same_difference() -> None:
    one, other = answers({1, 2, 3, 20}), answers({3, 4, 5, 6, 7, 30})
    by_family, compared = paired_differences(one, other), compare_predictions(one, other)
    assert by_family["av"] == {name: cell.difference for name, cell in compared.families.items()}
    assert by_family["av"]["visual"].value == pytest.approx((2 - 3) / 20)
    assert by_family["text_only"]["visual"].value == 0
    assert paired_differences(one, answers({3}, n=39)) == {}


def test_other_questions_and_other_tasks_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"40 answers under av with 39 .*sample 39\b"):
        compare_predictions(answers(set()), answers(set(), n=39))
    first = asked("avqa", 1)
    assert require_same_task(first, first) == first.task
    with pytest.raises(EvaluationError, match="task avqa 1 against avqa 2:"):
        require_same_task(first, asked("avqa", 2))
    with pytest.raises(EvaluationError, match=r"task avqa 1 against not recorded"):
        require_same_task(first, first.model_copy(update={"task": None}))
    other = first.model_copy(update={"dataset": EvaluatedDataset(name="task-avqa", commit="b" * 64)})
    with pytest.raises(EvaluationError, match=r"dataset task-avqa a+ questions against task-avqa b+:"):
        require_same_task(first, other)


def asked(task: str, version: int) -> EvaluationResult:
    return EvaluationResult(
        task=TaskNote(name=task, version=version, rule="choice", rule_version=1, prompt=""),
        dataset=EvaluatedDataset(name=f"task-{task}", commit="a" * 64, split="questions"),
        checkpoint=CheckpointName(uri="s3://b/c", digest="0"),
        accuracy={},
    )
