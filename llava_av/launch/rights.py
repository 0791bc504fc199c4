"""What jobs may do in S3, as policies in AWS's language, which MinIO takes for users and for session keys."""

import re
from collections.abc import Mapping
from typing import Any

from llava_av.launch.api import LaunchError
from llava_av.runs import EvaluationResult, NotFiniteReport, Starts, TrainingResult
from llava_av.runs.names import METRICS, PREDICTIONS, RUNS

__all__ = ["NO_ADMIN", "RUN_OBJECTS", "WRITE", "allow", "policy_of", "run_policy"]

WRITE = ("s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
"""Actions of writing an object, in parts too."""
RUN_OBJECTS = (
    TrainingResult.NAME,
    NotFiniteReport.NAME,
    Starts.NAME,
    METRICS,
    PREDICTIONS,
    EvaluationResult.NAME,
    "parts/*",
)
"""What training and evaluation leave of a run. Requests, registrations and gates are not theirs to write."""
NO_ADMIN = {"Effect": "Deny", "Action": ["admin:*"]}
"""Statement without which a user of MinIO may make service accounts, which outlive its keys."""
_WILDCARDS = re.compile(r"[*?$]")


def policy_of(*statements: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy of these statements."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(actions: tuple[str, ...], buckets: list[str], *keys: str) -> dict[str, Any]:
    """Allow actions on the objects whose keys match; without keys on the buckets themselves."""
    places = [f"arn:aws:s3:::{bucket}" for bucket in buckets]
    objects = [f"{place}/{key}" for place in places for key in keys]
    return {"Effect": "Allow", "Action": list(actions), "Resource": objects or places}


def run_policy(
    bucket: str,
    run: str,
    *,
    dataset: Mapping[str, str],
    model: str | None,
    at: str = "",
    mlflow_artifacts: bool = False,
) -> dict[str, Any]:
    """Return what a job does with its own run: read data and models, write results and checkpoints.

    Args:
        bucket: Name of the bucket.
        run: Run ID.
        dataset: `name` and `commit` of the data that the job reads.
        model: Prefix of the keys of a checkpoint that it reads beside those of the run, or None.
        at: Place below the run, ending in `/`, of the only evaluation whose results it writes; empty for the
            run itself.
        mlflow_artifacts: Whether it sends MLflow's artifacts to S3 itself.

    Raises:
        LaunchError: A name holds a character that stands for others in a policy.
    """
    for name in (run, *dataset.values(), model or "", at):
        if _WILDCARDS.search(name):
            raise LaunchError(f"run {run}: {name!r} has *, ? or $, which a policy cannot name")
    data, results = f"datasets/{dataset['name']}", f"{RUNS}{run}/{at}"
    reads = [
        "blobs/*",
        f"{data}/commits/{dataset['commit']}.json",
        f"{data}/manifests/*",
        f"{RUNS}{run}/*",
        *([f"{model}/*"] if model else []),
    ]
    # Evaluating a model on a task of its own writes no checkpoint.
    own = [] if at else [f"checkpoints/{run}/*"]
    sent = ["mlflow/*"] if mlflow_artifacts else []
    prefixes = {"StringLike": {"s3:prefix": [f"{results}parts/*", *own]}}
    return policy_of(
        {**allow(("s3:ListBucket",), [bucket]), "Condition": prefixes},
        allow(("s3:GetObject",), [bucket], *reads, *own, *sent),
        allow(WRITE, [bucket], *(f"{results}{name}" for name in RUN_OBJECTS), *own, *sent),
        allow(("s3:DeleteObject",), [bucket], f"{results}parts/*", *own),
        NO_ADMIN,
    )
