"""Does every part learn the demonstration? `python -m benchmarks.model_variants --output-dir DIR`.

Each variant is the dry run's recipe with one change. It trains on the same clips in the same order, by the
job that every run has, in one process, and answers the held-out questions with all streams, with one, with
none and with another clip's sound. Results are kept in DIR/variants.jsonl: a call again goes on with what is
missing, and prints the table of all that is there.
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
from llava_av.workflows.data import commit_demo, open_committed_run
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, run_job
from llava_av.workflows.runtime.workspace import Workspace

# By dotted path, what is not as in the recipe `dryrun`.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "as in the recipe": {},
    "perceiver": {"model.resampler": "perceiver", "model.resampler_options": {"queries": 1}},
    "Q-Former": {"model.resampler": "qformer", "model.resampler_options": {"queries": 1}},
    "Q-Former for sound": {
        "model.audio_downsampler": "qformer",
        "model.audio_downsampler_options": {"window": 25, "queries": 1},
    },
    "masked drop": {"model.resampler": "masked_drop", "model.resampler_options": {"drop_share": 0.75}},
    "identity": {"model.resampler": "identity", "model.resampler_options": {}},
    "convolution for sound": {
        "model.audio_downsampler": "convolution",
        "model.audio_downsampler_options": {"kernel": 25, "stride": 25},
    },
    "average for sound": {
        "model.audio_downsampler": "average",
        "model.audio_downsampler_options": {"size": 25},
    },
    "video before sound": {"model.chunk_s": None},
    "linear projectors": {"model.vision_projector": "linear", "model.audio_projector": "linear"},
    "residual projectors": {
        "model.vision_projector": "residual_mlp",
        "model.audio_projector": "residual_mlp",
    },
    "maximum pool": {"model.resampler_options": {"stride": 4, "mode": "max"}},
    "bilinear pool": {"model.resampler_options": {"stride": 4, "mode": "bilinear"}},
    "timestamps": {"model.timestamps": True},
    "slow and fast frames": {
        "model.slow_fast": {"every": 2, "stride": 4},
        "model.resampler_options": {"stride": 2},
    },
    "newline after each row": {"model.video_newline": "grid"},
    "packed rows": {"training.pack_length": 512},
}
# One process of one thread: two variants side by side then keep two cores busy, and none waits for another.
_PLACE = {"training.num_processes": 1, "training.engine": "torch", "training.checkpoint_interval": 10**6}
_COLUMNS = (
    "joint",
    "joint, sound alone",
    "joint, picture alone",
    "joint, another's sound",
    "tones",
    "colours",
)
_EXPERIMENT = "dryrun"


def recipe_of(variant: str, steps: int | None) -> Recipe:
    """The recipe of a variant, with another number of steps if one is given."""
    changes = {**_PLACE, **VARIANTS[variant], **({} if steps is None else {"training.steps": steps})}
    return load_recipe("dryrun").with_overrides(changes)


def measure(workspace: Workspace, store: ObjectStore, commit: Commit, variant: str, recipe: Recipe) -> dict:
    """Train and evaluate one variant."""
    run = open_committed_run(store, recipe, commit, _EXPERIMENT)
    name = variant.replace(" ", "-")
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
    """What was measured, as Markdown."""
    lines = ["| changed | steps | " + " | ".join(_COLUMNS) + " | tokens a sample | parameters | training |"]
    lines.append("| --- |" + " --- |" * (len(_COLUMNS) + 4))
    for result in results:
        seen = " | ".join(f"{result['accuracy'][column]:.2f}" for column in _COLUMNS)
        cost = f"{result['tokens']:.0f} | {result['parameters'] / 1e6:.2f} M | {result['seconds']:.0f} s"
        lines.append(f"| {result['variant']} | {result['steps']} | {seen} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--steps", type=int, help="by default as many as the recipe has")
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
