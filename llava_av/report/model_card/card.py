"""Model card in the format of Hugging Face, written from the lineage and the evaluation alone.

Format: https://huggingface.co/docs/hub/model-cards (YAML front matter with `model-index`, then Markdown).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from llava_av.recipe import AdapterRecipe, Recipe
from llava_av.report.labels import ablation_label, ordered_ablations, ordered_families
from llava_av.report.templates import render_template
from llava_av.runs import (
    Accuracy,
    DatasetName,
    EvaluationResult,
    GateDecision,
    Lineage,
    Registration,
    TrainingResult,
)
from llava_av.vocabulary import Ablation

__all__ = ["CardExperiment", "render_model_card"]

_TASK = "video-text-to-text"


@dataclass(frozen=True, kw_only=True)
class CardExperiment:
    """Fields of the experiment record that a card shows."""

    id: str
    title: str
    hypothesis: str
    incomplete: tuple[str, ...]
    """Parts that the record lacked when the run was opened."""
    outcomes: tuple[str, ...]
    """Expectations with the observed values, one line each."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """Row of a card's table of accuracies."""

    given: str
    family: str
    accuracy: Accuracy


def render_model_card(
    *,
    registered: Registration,
    train: TrainingResult,
    evaluation: EvaluationResult,
    gate: GateDecision,
    experiment: CardExperiment,
    splits: Mapping[str, int],
    quarantined: int,
    moves: str,
) -> str:
    """Return the card as Markdown; equal inputs give equal text.

    Args:
        registered: The registration, with the lineage.
        train: The result of training.
        evaluation: The evaluation, with its `tasks`.
        gate: The decision of the gate.
        experiment: The experiment record.
        splits: Samples of each split of the dataset.
        quarantined: Number of files that were left out of it.
        moves: URI of the record of alias moves; aliases move later, but the card does not change.
    """
    lineage = registered.lineage
    values = dict(
        front=yaml.safe_dump(_front(registered, evaluation), sort_keys=False, allow_unicode=True),
        name=registered.name,
        version=registered.version,
        moves=moves,
        **_model_types(lineage.recipe),
        base=lineage.recipe.model.base,
        adapter=_adapter(lineage.recipe.model.adapter),
        parameters=train.parameters,
        experiment=experiment,
        dataset=lineage.dataset,
        further_datasets=lineage.further_datasets,
        splits=sorted(splits.items()),
        quarantined=quarantined,
        steps=train.steps,
        stages=_stages(lineage.recipe, train),
        global_batch_size=lineage.recipe.training.global_batch_size,
        engine=train.engine,
        processes=train.processes,
        seconds=train.seconds,
        seed=lineage.seed,
        rows=list(_rows(evaluation.accuracy)),
        tasks=[
            {
                "name": name,
                "version": found.task_version,
                "rows": _rows(found.accuracy),
            }
            for name, found in sorted(evaluation.tasks.items())
        ],
        outcomes=experiment.outcomes,
        gate=": ".join(filter(None, (gate.verdict, "; ".join(gate.reasons)))),
        lineage=_lineage_rows(lineage),
    )
    # Markdown viewers escape HTML in text from a dataset or a user.
    return render_template("model_card/model_card.md.j2", values, html=False)


def _stages(recipe: Recipe, train: TrainingResult) -> list[dict[str, object]]:
    """Return name, steps, batch size and trained parts of each stage."""
    return [
        {
            "name": found.name,
            "steps": found.steps,
            "global_batch_size": own.training.global_batch_size,
            "parts": own.model.updated_text,
        }
        for index, found in enumerate(train.stages)
        for own in [recipe.of_stage(index)]
    ]


def _model_types(recipe: Recipe) -> dict[str, str]:
    parts = {"vision": recipe.model.vision, "audio": recipe.model.audio, "language": recipe.model.language}
    return {part: str((settings or {}).get("model_type", "custom")) for part, settings in parts.items()}


def _front(registered: Registration, evaluation: EvaluationResult) -> dict[str, object]:
    dataset = registered.lineage.dataset
    results = list(_results(dataset.name, dataset, "held_out", evaluation.accuracy))
    for task, found in sorted(evaluation.tasks.items()):
        results += _results(task, found.dataset, "questions", found.accuracy)
    return {
        "library_name": "llava-av",
        "pipeline_tag": _TASK,
        "tags": ["llava", "audio-visual", "video", "audio"],
        "datasets": [one.name for one in registered.lineage.datasets],
        "model-index": [{"name": registered.name, "results": results}],
    }


def _results(
    name: str, dataset: DatasetName, split: str, accuracy: Mapping[str, Mapping[str, Accuracy]]
) -> Iterator[dict[str, object]]:
    for family in ordered_families(accuracy[Ablation.AUDIO_VISUAL]):
        yield {
            "task": {"type": _TASK, "name": f"{family} questions"},
            "dataset": {"type": dataset.name, "name": name, "revision": dataset.commit, "split": split},
            "metrics": [
                {
                    "type": "accuracy",
                    "name": f"accuracy, {ablation_label(ablation).lower()}",
                    "value": round(accuracy[ablation][family].value, 4),
                }
                for ablation in ordered_ablations(accuracy)
                if family in accuracy[ablation]
            ],
        }


def _rows(accuracy: Mapping[str, Mapping[str, Accuracy]]) -> list[_Row]:
    return [
        _Row(given=ablation_label(ablation), family=family, accuracy=accuracy[ablation][family])
        for family in ordered_families(name for row in accuracy.values() for name in row)
        for ablation in ordered_ablations(accuracy)
        if family in accuracy[ablation]
    ]


def _adapter(adapter: AdapterRecipe | None) -> str | None:
    if adapter is None:
        return None
    kind = "DoRA" if adapter.dora else "LoRA"
    return f"{kind} of {', '.join(adapter.targets)}, rank {adapter.rank}, alpha {adapter.alpha:g}"


def _lineage_rows(lineage: Lineage) -> list[tuple[str, str]]:
    git, environment, experiment = lineage.git, lineage.environment, lineage.experiment
    model = lineage.recipe.model
    rows = {
        "base model": model.base,
        "base model digest": model.base_digest,
        "adapter": _adapter(model.adapter),
        "run": lineage.run,
        "code": git.commit or git.note,
        "patch": git.patch_sha256,
        "code digest": lineage.code_digest,
        "image": environment.image,
        "Python": environment.python,
        "platform": environment.platform,
        "checkpoint": lineage.checkpoint.uri,
        "checkpoint digest": lineage.checkpoint.digest,
        "experiment record": f"{experiment.id} {(experiment.sha256 or '')[:12]}",
    }
    return [(key, value.replace("|", "/")) for key, value in rows.items() if value]
