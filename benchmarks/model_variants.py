"""Comparison of model variants on the demonstration: `python -m benchmarks.model_variants --output-dir DIR`.

Each variant is the dry run's recipe with one change. All variants train on the same clips in the same order
with the usual training job, in one process, and are evaluated with all ablations of modalities.
DIR/variants.jsonl holds the results: a second call computes only the missing ones, and prints the table of
all.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from llava_av.cli.session import session
from llava_av.datasets.commits import Commit
from llava_av.provenance.source_code import code_state
from llava_av.recipe import Recipe, load_recipe
from llava_av.runs import EvaluationResult, Run, TrainingResult
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_demo import commit_demo
from llava_av.workflows.open_run import open_committed_run
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, run_job
from llava_av.workflows.runtime.workspace import Workspace

# Overrides of the recipe `dryrun` by dotted path.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "resampler: perceiver": {"model.resampler": "perceiver", "model.resampler_options": {"queries": 1}},
    "resampler: Q-Former": {"model.resampler": "qformer", "model.resampler_options": {"queries": 1}},
    "audio down-sampler: Q-Former": {
        "model.audio_downsampler": "qformer",
        "model.audio_downsampler_options": {"window": 25, "queries": 1},
    },
    "resampler: masked drop": {
        "model.resampler": "masked_drop",
        "model.resampler_options": {"drop_share": 0.75},
    },
    "resampler: identity": {"model.resampler": "identity", "model.resampler_options": {}},
    "audio down-sampler: convolution": {
        "model.audio_downsampler": "convolution",
        "model.audio_downsampler_options": {"kernel": 25, "stride": 25},
    },
    "audio down-sampler: average": {
        "model.audio_downsampler": "average",
        "model.audio_downsampler_options": {"size": 25},
    },
    "all video before all audio": {"model.chunk_s": None},
    "linear projectors": {"model.vision_projector": "linear", "model.audio_projector": "linear"},
    "residual projectors": {
        "model.vision_projector": "residual_mlp",
        "model.audio_projector": "residual_mlp",
    },
    "max pooling": {"model.resampler_options": {"stride": 4, "mode": "max"}},
    "bilinear pooling": {"model.resampler_options": {"stride": 4, "mode": "bilinear"}},
    "timestamps": {"model.timestamps": True},
    "slow and fast frames": {
        "model.slow_fast": {"every": 2, "stride": 4},
        "model.resampler_options": {"stride": 2},
    },
    "newline after each row": {"model.video_newline": "grid"},
    "packed rows": {"training.pack_length": 512},
}
# With one single-threaded process, two variants can run in parallel on two cores.
_ENGINE = {"training.num_processes": 1, "training.engine": "torch", "training.checkpoint_interval": 10**6}
_COLUMNS = (
    "Joint",
    "Joint, audio only",
    "Joint, video only",
    "Joint, shuffled audio",
    "Audio",
    "Visual",
)
_EXPERIMENT = "dryrun"


def recipe_of(variant: str, steps: int | None) -> Recipe:
    """Return the recipe of a variant, with another number of steps if given."""
    changes = {**_ENGINE, **VARIANTS[variant], **({} if steps is None else {"training.steps": steps})}
    return load_recipe("dryrun").with_overrides(changes)


def measure(workspace: Workspace, store: ObjectStore, commit: Commit, variant: str, recipe: Recipe) -> dict:
    """Train and evaluate a variant."""
    run = open_committed_run(store, recipe, (commit,), _EXPERIMENT)
    name = variant.replace(": ", " ").replace(" ", "-")
    if not run.has(TrainingResult):
        run_job(workspace, run, LOCAL_TARGET, name=f"train-{name}", module="llava_av.training", processes=1)
    run_job(workspace, run, LOCAL_TARGET, name=f"evaluate-{name}", module="llava_av.evaluation")
    return {"variant": variant, "steps": recipe.training.steps, **_result(run)}


def _result(run: Run) -> dict[str, Any]:
    trained, accuracy = run.read(TrainingResult), run.read(EvaluationResult).accuracy
    rows = run.metrics()[-100:]
    tokens = mean(row["tokens_per_s"] * row["step_s"] for row in rows)
    ablations = ("av", "audio_only", "video_only", "shuffled_audio")
    joint = [accuracy[ablation]["joint"].value for ablation in ablations]
    alone = [accuracy["av"][kind].value for kind in ("audio", "visual")]
    return {
        "run": run.id,
        "code": code_state().git.commit,
        "accuracy": dict(zip(_COLUMNS, (*joint, *alone), strict=True)),
        "tokens": tokens / run.request().recipe.training.global_batch_size,
        "parameters": trained.parameters,
        "seconds": trained.seconds,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| Change | Steps | " + " | ".join(_COLUMNS) + " | Tokens per sample | Parameters | Training |"]
    lines.append("| --- |" + " --- |" * (len(_COLUMNS) + 4))
    for result in results:
        accuracy = " | ".join(f"{result['accuracy'][column]:.2f}" for column in _COLUMNS)
        cost = f"{result['tokens']:.0f} | {result['parameters'] / 1e6:.2f} M | {result['seconds']:.0f} s"
        lines.append(f"| {result['variant']} | {result['steps']} | {accuracy} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--steps", type=int, help="default: those of the recipe")
    given = parser.parse_args()
    kept = given.output_dir.absolute() / "variants.jsonl"
    with session(given.output_dir, need_mlflow=False) as workspace:
        store = ObjectStore.from_env()
        store.ensure_bucket()
        commit = commit_demo(store, workspace, load_recipe("dryrun"))
        known = _kept(kept)
        for variant in given.variants:
            recipe = recipe_of(variant, given.steps)
            if (variant, recipe.training.steps) not in {(one["variant"], one["steps"]) for one in known}:
                known.append(measure(workspace, store, commit, variant, recipe))
                with kept.open("a") as file:
                    file.write(json.dumps(known[-1]) + "\n")
    print(table(known))


def _kept(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
