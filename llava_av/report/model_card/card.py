"""A model card in Hugging Face's format, written from the lineage and the evaluation alone.

Format: https://huggingface.co/docs/hub/model-cards (YAML front matter with `model-index`, then Markdown).
"""

from collections.abc import Mapping
from typing import Any

import yaml

from llava_av.recipe import current_names
from llava_av.report.labels import ablation_label, ordered_ablations, ordered_families
from llava_av.report.templates import render_template

__all__ = ["render_model_card"]

_TASK = "video-text-to-text"


def render_model_card(
    *,
    registered: Mapping[str, Any],
    train: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    gate: Mapping[str, Any],
    experiment: Mapping[str, Any],
    outcomes: tuple[str, ...],
    splits: Mapping[str, int],
    quarantined: int,
    moves: str,
) -> str:
    """The card as Markdown; equal inputs give equal text.

    Args:
        registered: register.json, with the lineage.
        train: train.json.
        evaluation: evaluation.json, with those of other tasks by name under `tasks`.
        gate: gate.json.
        experiment: `id`, `title`, `hypothesis` and `incomplete` of its record.
        outcomes: each expectation beside what was seen.
        splits: samples of each split of the dataset.
        quarantined: files that were left out of it.
        moves: where the record of the model's aliases is; who has them changes, and the card does not.
    """
    lineage = registered["lineage"]
    recipe = current_names(lineage["recipe"])
    values = dict(
        front=yaml.safe_dump(_front(registered, evaluation), sort_keys=False, allow_unicode=True),
        name=registered["name"],
        version=registered["version"],
        moves=moves,
        **{
            tower: recipe["model"][tower].get("model_type", "custom")
            for tower in ("vision", "audio", "language")
        },
        parameters=train.get("parameters"),
        experiment=experiment,
        dataset=lineage["dataset"],
        splits=sorted(splits.items()),
        quarantined=quarantined,
        steps=train["steps"],
        global_batch_size=recipe["training"]["global_batch_size"],
        engine=train["engine"],
        processes=train["processes"],
        seconds=train.get("seconds"),
        seed=lineage["seed"],
        rows=_rows(evaluation["accuracy"]),
        tasks=[
            {"name": name, "version": found["task"]["version"], "rows": _rows(found["accuracy"])}
            for name, found in sorted(evaluation.get("tasks", {}).items())
        ],
        outcomes=outcomes,
        gate=_gate(gate),
        lineage=_lineage(lineage),
    )
    # Markdown: its reader escapes text that a dataset or a person wrote.
    return render_template("model_card/model_card.md.j2", values, html=False)


def _front(registered: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    lineage, name = registered["lineage"], registered["name"]
    held_out = {**lineage["dataset"], "split": "held_out"}
    results = _results(held_out["name"], held_out, evaluation["accuracy"])
    for task, found in sorted(evaluation.get("tasks", {}).items()):
        results += _results(task, {**found["dataset"], "split": "questions"}, found["accuracy"])
    return {
        "library_name": "llava-av",
        "pipeline_tag": _TASK,
        "tags": ["llava", "audio-visual", "video", "audio"],
        "datasets": [held_out["name"]],
        "model-index": [{"name": name, "results": results}],
    }


def _results(name: str, asked: Mapping[str, str], accuracy: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "task": {"type": _TASK, "name": f"questions that need {family} information"},
            "dataset": {
                "type": asked["name"],
                "name": name,
                "revision": asked["commit"],
                "split": asked["split"],
            },
            "metrics": [
                {
                    "type": "accuracy",
                    "name": f"accuracy, {ablation_label(ablation).lower()}",
                    "value": round(accuracy[ablation][family]["value"], 4),
                }
                for ablation in ordered_ablations(accuracy)
                if family in accuracy[ablation]
            ],
        }
        for family in ordered_families(accuracy["av"])
    ]


def _rows(accuracy: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"given": ablation_label(ablation), "family": family, **accuracy[ablation][family]}
        for family in ordered_families(name for row in accuracy.values() for name in row)
        for ablation in ordered_ablations(accuracy)
        if family in accuracy[ablation]
    ]


def _gate(gate: Mapping[str, Any]) -> str:
    words = {True: "passed", False: "failed", None: "not run"}[gate["passed"]]
    return ": ".join(filter(None, (words, "; ".join(gate["reasons"]))))


def _lineage(lineage: Mapping[str, Any]) -> list[tuple[str, str]]:
    git, environment = lineage["git"], lineage["environment"]
    rows = {
        "run": lineage.get("run"),
        "code": git["commit"] or git["note"],
        "patch": git["patch_sha256"],
        "code digest": lineage["code_digest"],
        "image": environment["image"],
        "Python": environment["python"],
        "platform": environment["platform"],
        "checkpoint": lineage["checkpoint"]["uri"],
        "checkpoint digest": lineage["checkpoint"]["digest"],
        "experiment record": f"{lineage['experiment']['id']} {lineage['experiment']['sha256'][:12]}",
    }
    return [(key, str(value).replace("|", "/")) for key, value in rows.items() if value]
