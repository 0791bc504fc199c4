"""An evaluation job: the held-out split asked under every ablation, replies and losses judged."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_av.checkpoints import CheckpointError, fetch_checkpoint, read_manifest
from llava_av.datasets.commits import checkout, read_commit, read_split
from llava_av.datasets.loading import load_clip
from llava_av.datasets.schema import Sample
from llava_av.evaluation.ablations import ABLATIONS, Ablation
from llava_av.evaluation.answers import Prediction, score
from llava_av.evaluation.summary import evaluate_predictions
from llava_av.media.clip import Clip
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor, load_model
from llava_av.processes import report_progress
from llava_av.recipe import Recipe
from llava_av.storage import ObjectStore
from llava_av.tracking.exporter import EvaluationMetrics, serve_metrics

__all__ = ["evaluate", "predict"]


def evaluate(run: str, work: Path) -> None:
    """Evaluates a trained run; leaves predictions.jsonl, then evaluation.json, in S3.

    Args:
        run: run key; `runs/<run>/train.json` names the checkpoint.
        work: local folder for copies of data and checkpoint.

    Raises:
        UserError: data, storage or checkpoint cannot be used; one line says which and why.
    """
    started = time.monotonic()
    store = ObjectStore.from_env()
    request = store.get_json(f"runs/{run}/request.json")
    checkpoint = store.get_json(f"runs/{run}/train.json")["checkpoint"]
    recipe = Recipe.model_validate(request["recipe"])
    dataset = request["dataset"]
    commit = read_commit(store, dataset["name"], dataset["commit"])
    data = checkout(store, commit, work / "data" / commit.id[:16])
    folder = work / run / "evaluating"
    manifest = read_manifest(store, checkpoint["uri"])
    if manifest.digest != checkpoint["digest"]:
        raise CheckpointError(
            f"{checkpoint['uri']} is another checkpoint than run {run} ended with: its manifest says "
            f"{manifest.digest}, the run's train.json {checkpoint['digest']}; train again"
        )
    files = [name for name in manifest.files if name.startswith("model/")]
    fetch_checkpoint(store, checkpoint["uri"], folder, files)
    model, processor = load_model(folder / "model")
    held_out = read_split(data, "held_out")
    metrics = EvaluationMetrics(request, planned=len(held_out) * len(ABLATIONS))
    with serve_metrics(metrics):
        predictions = list(metrics.counted(predict(model, processor, data, held_out, recipe)))
    lines = "".join(prediction.to_json_line() for prediction in predictions)
    store.put_bytes(f"runs/{run}/predictions.jsonl", lines.encode())
    judged = evaluate_predictions(predictions, draws=recipe.evaluation.bootstrap_draws, seed=recipe.seed)
    about = {
        "dataset": dataset,
        "checkpoint": {"uri": checkpoint["uri"], "digest": checkpoint["digest"]},
        "seconds": round(time.monotonic() - started, 3),
    }
    store.put_json(f"runs/{run}/evaluation.json", judged | about)


@dataclass(frozen=True, kw_only=True)
class _Question:
    """A sample with its clip: all turns but the last, and the answer that the last one gives."""

    sample: Sample
    clip: Clip

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        return tuple((turn.speaker, turn.value) for turn in self.sample.conversations)

    @property
    def answer(self) -> str:
        return self.sample.conversations[-1].value

    @property
    def text(self) -> str:
        text = self.sample.conversations[-2].value
        for mark in ("<video>", "<image>", "<audio>"):
            text = text.replace(mark, "")
        return " ".join(text.split())


def predict(
    model: LlavaAvForConditionalGeneration,
    processor: LlavaAvProcessor,
    data: Path,
    samples: Sequence[Sample],
    recipe: Recipe,
) -> Iterator[Prediction]:
    """Asks each sample's last question under each ablation.

    Args:
        model: in eval mode.
        processor: the model's.
        data: folder that the samples' media are relative to.
        samples: conversations that end with an answer.
        recipe: batch size, reply length, media settings.
    """
    total = len(samples) * len(ABLATIONS)
    done = 0
    for first in range(0, len(samples), recipe.evaluation.batch_size):
        chosen = samples[first : first + recipe.evaluation.batch_size]
        questions = _with_clips(chosen, data, recipe)
        for ablation in ABLATIONS:
            yield from _ask(model, processor, questions, ablation, recipe.evaluation.max_new_tokens)
            done += len(questions)
            report_progress("evaluate", done, total, ablation.name.replace("_", " "))


def _with_clips(samples: Sequence[Sample], data: Path, recipe: Recipe) -> list[_Question]:
    """Samples about the same media share one decoded clip, so that it goes through the towers once."""
    clips: dict[tuple[Any, ...], Clip] = {}
    questions = []
    for sample in samples:
        key = (sample.image, sample.video, sample.audio, sample.use_audio)
        if key not in clips:
            clips[key] = load_clip(data, sample, recipe.media)
        questions.append(_Question(sample=sample, clip=clips[key]))
    return questions


@torch.inference_mode()
def _ask(
    model: LlavaAvForConditionalGeneration,
    processor: LlavaAvProcessor,
    questions: Sequence[_Question],
    ablation: Ablation,
    max_new_tokens: int,
) -> list[Prediction]:
    applied = [ablation.apply(question.turns, question.clip) for question in questions]
    losses = _answer_losses(
        model, processor.collate([processor.encode(*one, last_only=True) for one in applied])
    )
    prompts = [processor.encode(turns[:-1], clip, reply=True) for turns, clip in applied]
    inputs = processor.collate(prompts, left=True)
    inputs.pop("labels")
    new = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    replies = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [
        score(
            sample_id=question.sample.id,
            ablation=ablation.name,
            kind=question.sample.kind,
            question=question.text,
            choices=question.sample.choices,
            answer=question.answer,
            reply=reply,
            loss=loss,
            clip=next(iter(question.sample.media), None),
        )
        for question, loss, reply in zip(questions, losses, replies, strict=True)
    ]


def _answer_losses(model: LlavaAvForConditionalGeneration, batch: dict[str, Any]) -> list[float]:
    """Mean loss a token of each row's last answer, in nats."""
    output = model(**batch)
    losses: list[float] = (output.loss_sums / output.loss_counts).tolist()
    return losses
