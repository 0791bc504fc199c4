"""Run IDs, names of the objects of a run that are not JSON, and prefixes of keys below a run."""

import re

__all__ = [
    "EVALUATIONS",
    "EXPERIMENT_RECORD",
    "METRICS",
    "MODEL_CARD",
    "PATCH",
    "PREDICTIONS",
    "PROFILE",
    "REPORT",
    "RUNS",
    "SKIPPED",
    "STACKS",
    "evaluation_place",
    "experiment_prefix",
    "is_run_id",
    "outcome_key",
    "parts_place",
    "split_evaluation_place",
    "stacks_name",
]

RUNS = "runs/"
_RUN_ID = re.compile(r"[0-9a-f]{16}")
EXPERIMENT_RECORD = "experiment.md"
"""Experiment record at the time that the run was opened."""
PATCH = "code.patch"
"""Binary patch from the git commit to the code of the run."""
METRICS = "metrics.jsonl"
"""Journal of training, one line per step."""
PREDICTIONS = "predictions.jsonl"
"""Answers of an evaluation."""
REPORT = "report.html"
MODEL_CARD = "model-card.md"
EVALUATIONS = "evaluations/"
"""Evaluations on other tasks than the held-out split."""
SKIPPED = "skipped/"
"""Reports of the steps that were not applied, each below the number of its step."""
PROFILE = "profile/"
"""Trace and table of profiled training steps."""
STACKS = "stacks/"
"""Stacks of training processes that hung."""
_EVALUATION = re.compile(rf"{EVALUATIONS}(?P<task>[^/]+)/step-(?P<step>\d+)/")


def is_run_id(text: str) -> bool:
    """Return whether a text has the form of a run ID; the run may not exist."""
    return _RUN_ID.fullmatch(text) is not None


def evaluation_place(task: str, step: int) -> str:
    """Return the place below a run of the evaluation of one of its checkpoints on a task."""
    return f"{EVALUATIONS}{task}/step-{step:08d}/"


def split_evaluation_place(name: str) -> tuple[str, int] | None:
    """Return task and step of the `evaluation_place` at the start of an object's name; None without one."""
    match = _EVALUATION.match(name)
    return None if match is None else (match["task"], int(match["step"]))


def stacks_name(rank: int) -> str:
    """Return the name of the stacks of a training process that hung."""
    return f"{STACKS}rank-{rank:05d}.txt"


def parts_place(identity: str) -> str:
    """Return the place, below the evaluation, of the parts of work with this identity."""
    return f"parts/{identity[:16]}/"


def experiment_prefix(experiment: str) -> str:
    """Return the prefix of the outcomes of all runs of an experiment."""
    return f"experiments/{experiment}/"


def outcome_key(experiment: str, run: str) -> str:
    """Return the key of a run's outcome among those of its experiment."""
    return f"{experiment_prefix(experiment)}{run}.json"
