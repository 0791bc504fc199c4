"""Runs that have been trained and evaluated, as their steps would have left them, without the hours."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llava_av.checkpoints import CheckpointState, state_digest, write_checkpoint
from llava_av.datasets.commits import Commit
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.schema import Sample
from llava_av.evaluation.aggregation import evaluate_predictions
from llava_av.evaluation.job_request import work_of_run
from llava_av.provenance.environment import this_environment
from llava_av.provenance.source_code import code_state
from llava_av.recipe import load_recipe
from llava_av.runs import (
    DatasetName,
    EvaluatedDataset,
    EvaluationResult,
    Prediction,
    Run,
    TrainedCheckpoint,
    TrainingResult,
)
from llava_av.storage import ObjectStore
from llava_av.workflows.evaluate import evaluate_step
from llava_av.workflows.open_run import open_run
from llava_av.workflows.runtime.workspace import Workspace

QUESTIONS = 200
ABLATIONS = {"av": 0.0, "video_only": 0.6, "audio_only": 0.6, "text_only": 0.6}
"""Additional share of wrong answers under each ablation."""


def predictions(wrong: int) -> list[dict[str, Any]]:
    rows = []
    for ablation, lost in ABLATIONS.items():
        for number in range(QUESTIONS):
            correct = number >= wrong + lost * QUESTIONS
            rows.append(
                {"id": f"q{number}", "ablation": ablation, "kind": "joint", "question": "Who?", "answer": "a",
                 "choices": ["a", "b"], "reply": "a", "parsed": "a" if correct else "b", "correct": correct,
                 "loss": 0.1, "clip": f"{number}.mp4", "modalities": "video_audio"}
            )  # fmt: skip
    return rows


def evaluated_runs(store: ObjectStore, records: Path, folder: Path) -> Callable[..., Run]:
    """Open runs of the records in a folder, each with the given number of wrong answers."""
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "a"}]
    train, *held_out = (
        Sample.model_validate({"id": name, "kind": "all", "conversations": turns})
        for name in ("s", *(f"q{number}" for number in range(QUESTIONS)))
    )
    commit: Commit = commit_dataset(store, "words", folder, {"train": [train], "held_out": held_out}, ())

    def make(experiment: str, *, wrong: int, seed: int, model: Path | None = None) -> Run:
        recipe = load_recipe("quick").with_overrides({"seed": seed, "name": f"compared-{store.bucket[-8:]}"})
        dataset = DatasetName(name=commit.name, commit=commit.id)
        record = str(records / f"{experiment}.md")
        run = open_run(store, recipe=recipe, dataset=dataset, experiment=record, code=code_state())
        weights = folder / run.id / "weights.bin"
        weights.parent.mkdir()
        weights.write_bytes(run.id.encode())
        state = CheckpointState(digest=state_digest({"run": run.id}), data_position={})
        files = {f"model/{path.name}": path for path in (model.iterdir() if model else (weights,))}
        ref = write_checkpoint(store, run.id, 8, files, state, extra={})
        train = TrainingResult(
            run=run.id,
            checkpoint=TrainedCheckpoint(uri=ref.uri, digest=ref.digest, step=8),
            steps=8,
            resumed_from=None,
            engine="torch",
            processes=1,
            environment=this_environment(),
            seconds=1.0,
        )
        run.write(train)
        rows = predictions(wrong)
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        store.put_bytes(run.path("predictions.jsonl"), lines)
        run.put_metrics(b'{"step": 1, "loss": 0.5}\n')
        scores = evaluate_predictions([Prediction.model_validate(row) for row in rows], draws=200, seed=0)
        work = work_of_run(run.request(), train.checkpoint)
        result = EvaluationResult(
            **dict(scores),
            identity=work.identity(),
            task=work.task,
            dataset=EvaluatedDataset(**dict(work.dataset)),
            checkpoint=work.checkpoint,
            predictions_sha256=hashlib.sha256(lines).hexdigest(),
            seconds=1.0,
        )
        run.write(result)
        evaluate_step(Workspace(folder=folder / "out"), run.id)
        return run

    return make
