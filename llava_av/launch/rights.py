"""S3 permissions of jobs, as AWS policies, which MinIO accepts for users and for session keys."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

from llava_av.launch.api import LaunchError
from llava_av.plurals import count_of
from llava_av.runs import (
    BadSamplesReport,
    EvaluationResult,
    LossSpikes,
    NotFiniteReport,
    StageResults,
    Starts,
    TrainingResult,
)
from llava_av.runs.names import METRICS, PREDICTIONS, PROFILE, RUNS, SKIPPED, STACKS

__all__ = [
    "NO_ADMIN",
    "PARTS",
    "RUN_OBJECTS",
    "WRITE",
    "Policy",
    "Statement",
    "allow",
    "policy_of",
    "policy_text",
    "run_policy",
]


class Statement(TypedDict):
    """Statement of a policy."""

    Effect: Literal["Allow", "Deny"]
    Action: list[str]
    Resource: NotRequired[list[str]]
    Condition: NotRequired[dict[str, dict[str, list[str]]]]


class Policy(TypedDict):
    """AWS policy."""

    Version: Literal["2012-10-17"]
    Statement: list[Statement]


WRITE = ("s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
"""Actions that writing an object needs, also in parts."""
PARTS = "parts/*"
"""Parts of an evaluation, which are deleted when it ends."""
RUN_OBJECTS = (
    TrainingResult.NAME,
    StageResults.NAME,
    NotFiniteReport.NAME,
    LossSpikes.NAME,
    BadSamplesReport.NAME,
    f"{SKIPPED}*",
    Starts.NAME,
    METRICS,
    PREDICTIONS,
    EvaluationResult.NAME,
    PARTS,
    f"{STACKS}*",
    f"{PROFILE}*",
)
"""Objects of a run that training and evaluation write; not requests, registrations or gates."""
_EVALUATION_OBJECTS = (PREDICTIONS, EvaluationResult.NAME)
_MAX_CHARACTERS = 2048
"""Limit of AWS and MinIO for the policy of a session."""
NO_ADMIN: Statement = {"Effect": "Deny", "Action": ["admin:*"]}
"""Statement that prevents a MinIO user from creating service accounts, which would outlive its keys."""
_WILDCARDS = re.compile(r"[*?$]")


def policy_of(*statements: Statement) -> Policy:
    """Return the policy with these statements."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(actions: tuple[str, ...], buckets: list[str], *keys: str) -> Statement:
    """Allow actions on the objects with matching keys; without keys, on the buckets themselves."""
    arns = [f"arn:aws:s3:::{bucket}" for bucket in buckets]
    objects = [f"{arn}/{key}" for arn in arns for key in keys]
    return {"Effect": "Allow", "Action": list(actions), "Resource": objects or arns}


def run_policy(
    bucket: str,
    run: str,
    *,
    dataset: Mapping[str, str],
    further_datasets: Sequence[str] = (),
    models: Sequence[str] = (),
    at: str = "",
    mlflow_artifacts: bool = False,
) -> Policy:
    """Return the policy of a job: read data and models, write results and checkpoints of its own run.

    Args:
        bucket: Name of the bucket.
        run: Run ID.
        dataset: `name` and `commit` of the data that the job reads.
        further_datasets: Names of further datasets that it reads.
        models: Key prefixes of checkpoints that it reads in addition to those of the run.
        at: Path below the run, ending in `/`, of the only evaluation whose results it writes; empty for the
            run itself.
        mlflow_artifacts: True if the job sends MLflow's artifacts to S3 directly.

    Raises:
        LaunchError: A name contains a character that is a wildcard in a policy, or the policy is longer than
            that of a session may be, because the datasets are many.
    """
    for name in (run, *dataset.values(), *further_datasets, *models, at):
        if _WILDCARDS.search(name):
            raise LaunchError(
                f"run {run}: {name!r} must not contain *, ? or $, which are wildcards in S3 policies"
            )
    results = f"{RUNS}{run}/{at}"
    reads = [
        "blobs/*",
        f"datasets/{dataset['name']}/commits/{dataset['commit']}.json",
        # `manifests/` and `media/`, in few characters.
        f"datasets/{dataset['name']}/m*",
        f"datasets/{dataset['name']}/packs/*",
        *(f"datasets/{name}/*" for name in further_datasets),
        f"{RUNS}{run}/*",
        *(f"{model}/*" for model in models),
    ]
    # The evaluation of a model on a task writes no checkpoint.
    temporary = [f"{results}{PARTS}", *([] if at else [f"checkpoints/{run}/*"])]
    written = _EVALUATION_OBJECTS if at else [name for name in RUN_OBJECTS if name != PARTS]
    sent = ["mlflow/*"] if mlflow_artifacts else []
    policy = policy_of(
        {**allow(("s3:ListBucket",), [bucket]), "Condition": {"StringLike": {"s3:prefix": temporary}}},
        allow(("s3:GetObject",), [bucket], *reads, *sent),
        allow(WRITE, [bucket], *(f"{results}{name}" for name in written), *sent),
        allow(("s3:GetObject", *WRITE, "s3:DeleteObject"), [bucket], *temporary),
        NO_ADMIN,
    )
    _require_short(policy, run, datasets=1 + len(further_datasets))
    return policy


def _require_short(policy: Policy, run: str, *, datasets: int) -> None:
    """Require that a policy is short enough for a session."""
    length = len(policy_text(policy))
    if length > _MAX_CHARACTERS:
        raise LaunchError(
            f"run {run}: the policy of its session keys for S3 has {length:,} characters for "
            f"{count_of(datasets, 'dataset')}, but may have at most {_MAX_CHARACTERS:,}: commit datasets "
            "together, give them shorter names, or set session_credentials to false in the job profile"
        )


def policy_text(policy: Policy) -> str:
    """Return a policy as the shortest JSON text."""
    return json.dumps(policy, separators=(",", ":"))
