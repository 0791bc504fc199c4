"""Policies of jobs; `tests/integration/rights/test_chart_rights.py` tests their effect on a server."""

import json
from typing import Any

import pytest

from llava_av.launch import LaunchError
from llava_av.launch.rights import policy_text, run_policy

RUN, DATASET = "0123456789abcdef", {"name": "demo", "commit": "c" * 64}


def resources(policy: dict[str, Any], action: str) -> set[str]:
    """Objects on which a policy allows an action, without the bucket."""
    allowed = [one for one in policy["Statement"] if one["Effect"] == "Allow" and action in one["Action"]]
    return {name.removeprefix("arn:aws:s3:::bucket/") for one in allowed for name in one["Resource"]}


@pytest.mark.parametrize("sent", [False, True])
def test_artifacts_of_mlflow_only_where_jobs_send_them(sent: bool) -> None:
    policy = run_policy("bucket", RUN, dataset=DATASET, mlflow_artifacts=sent)
    assert ("mlflow/*" in resources(policy, "s3:PutObject")) == sent
    assert "mlflow/*" not in resources(policy, "s3:DeleteObject")


def test_writing_is_for_names_with_the_run() -> None:
    policy = run_policy("bucket", RUN, dataset=DATASET, models=["checkpoints/base-a/step-00000000"])
    for action in ("s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject"):
        places = {name.split("/")[1] for name in resources(policy, action)}
        assert places == {RUN}


def test_further_datasets_are_readable_alone() -> None:
    policy = run_policy("bucket", RUN, dataset=DATASET, further_datasets=("speech",))
    assert "datasets/speech/*" in resources(policy, "s3:GetObject")
    assert not any("speech" in name for name in resources(policy, "s3:PutObject"))


def test_an_evaluation_writes_its_own_results_alone() -> None:
    at = "evaluations/daily-omni/step-00000100/"
    policy = run_policy("bucket", RUN, dataset=DATASET, at=at)
    expected = {f"runs/{RUN}/{at}{name}" for name in ("predictions.jsonl", "evaluation.json", "parts/*")}
    assert resources(policy, "s3:PutObject") == expected
    assert resources(policy, "s3:DeleteObject") == {f"runs/{RUN}/{at}parts/*"}


@pytest.mark.parametrize("at", ["", "evaluations/a-benchmark-with-a-long-name/step-00000100/"])
def test_a_policy_is_as_short_as_sts_takes(at: str) -> None:
    policy = run_policy(
        "bucket-of-a-team",
        RUN,
        dataset=DATASET,
        models=["checkpoints/base-onevision/step-00000000", f"checkpoints/{RUN}/step-00000100"],
        at=at,
    )
    assert len(policy_text(policy)) == len(json.dumps(policy, separators=(",", ":"))) <= 2048


def test_too_many_datasets_are_one_line_with_the_limit() -> None:
    names = [f"a-dataset-with-a-rather-long-name-{number:03}" for number in range(60)]
    policy = run_policy("bucket", RUN, dataset=DATASET, further_datasets=names[:5])
    assert {f"datasets/{name}/*" for name in names[:5]} <= resources(policy, "s3:GetObject")
    with pytest.raises(LaunchError, match=r"61 datasets.*at most 2,048.*session_credentials") as caught:
        run_policy("bucket", RUN, dataset=DATASET, further_datasets=names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "*"},
        {"run": "0123?"},
        {"dataset": {"name": "*", "commit": "c"}},
        {"models": ["checkpoints/*"]},
        {"at": "${aws:username}"},
    ],
)
def test_names_that_stand_for_others_are_refused(changes: dict[str, Any]) -> None:
    given = {"run": RUN, "dataset": DATASET, **changes}
    with pytest.raises(LaunchError, match=r"must not contain \*, \? or \$"):
        run_policy("bucket", **given)
