"""An evaluation job: questions asked under every ablation, by any number of processes, and judged."""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from llava_av.checkpoints import CheckpointError, fetch_checkpoint, read_manifest
from llava_av.datasets.checkout import checkout, read_split
from llava_av.datasets.commits import read_commit
from llava_av.datasets.loading import load_clip
from llava_av.datasets.schema import Sample
from llava_av.datasets.unfit import Unfit, find_unfit, without_unfit
from llava_av.evaluation.ablations import ABLATIONS, SHUFFLED_AUDIO, Ablation
from llava_av.evaluation.answers import EvaluationError, Prediction
from llava_av.evaluation.generation import Asked, Asker
from llava_av.evaluation.partial_answers import Part, Parts, total_cost
from llava_av.evaluation.process_group import Group, joined_group
from llava_av.evaluation.question_batches import Question, Questions
from llava_av.evaluation.summary import evaluate_predictions
from llava_av.evaluation.work import EvaluationWork, read_work
from llava_av.media.clip import Clip
from llava_av.model import LlavaAvProcessor, load_model
from llava_av.processes import report_progress
from llava_av.processes.heartbeat import Limits, beating
from llava_av.recipe import DataRecipe
from llava_av.storage import ObjectMissing, ObjectStore
from llava_av.tracking.exporter import EvaluationMetrics, serve_metrics

__all__ = ["evaluate"]

_LOG = logging.getLogger(__name__)

_Asked = Collection[tuple[str, str]]
_WITHOUT_EXCHANGE = tuple(ablation for ablation in ABLATIONS if ablation is not SHUFFLED_AUDIO)
_NO_EXCHANGE = "fewer than two clips have sound that could be exchanged"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What the functions of one job share."""

    store: ObjectStore
    run: str
    prefix: str
    """Of the evaluation's keys, with its `/`."""
    todo: EvaluationWork
    group: Group
    parts: Parts


def evaluate(run: str, work: Path, at: str = "") -> None:
    """Evaluates a checkpoint; leaves predictions.jsonl, then evaluation.json, in S3.

    Answers are kept in S3 as they come. Whoever evaluates the same again, with whatever batch size and
    number of processes, asks what is missing.

    Args:
        run: run key.
        work: local folder for copies of data and checkpoint.
        at: place below `runs/<run>/` whose request.json says what is to be done and where results go;
            empty for the run's own evaluation, of the checkpoint that its train.json names.

    Raises:
        UserError: data, storage or checkpoint cannot be used; one line says which and why.
    """
    started = time.monotonic()
    job = _open(run, at)
    # Shares of the questions differ in length, so only silence tells that a process is gone.
    with beating(Limits.from_env()):
        _evaluate(job, at, work, started)
        job.group.wait()
    job.group.leave()


def _evaluate(job: _Job, at: str, work: Path, started: float) -> None:
    data, folder = job.group.one_of_node_first(lambda: _fetch(job, work))
    samples, unfit = _fit_samples(job, at, data, folder)
    questions = Questions(data, samples, seed=job.todo.seed)
    ablations = ABLATIONS if questions.can_exchange_sound else _WITHOUT_EXCHANGE
    total = len(samples) * len(ablations)
    done = {(item.id, item.ablation) for part in job.parts.read() for item in part.predictions}
    # Who begins to write before all have read would leave them different ideas of what is missing.
    job.group.wait()
    if done and job.group.first:
        _LOG.info("%d of %d answers exist already", len(done), total)
    if len(done) < total:
        _ask_share(job, folder, questions, ablations, done)
    job.group.wait()
    if job.group.first:
        _finish(job, samples, unfit, ablations, started)


def _open(run: str, at: str) -> _Job:
    store = ObjectStore.from_env()
    todo = read_work(store, run, at)
    prefix = f"runs/{run}/{at}/" if at else f"runs/{run}/"
    parts = Parts(store, prefix, todo.identity())
    return _Job(store=store, run=run, prefix=prefix, todo=todo, group=joined_group(), parts=parts)


def _fit_samples(
    job: _Job, at: str, data: Path, folder: Path
) -> tuple[tuple[Sample, ...], tuple[Unfit, ...]]:
    """Return the samples that the model can take, and those that it cannot; the same in every process."""
    samples = read_split(data, job.todo.split)
    processor = LlavaAvProcessor.from_pretrained(folder)
    recipe = {} if at else job.store.get_json(f"runs/{job.run}/request.json")["recipe"]["data"]
    most_share = DataRecipe.model_validate(recipe).max_bad_share
    media = job.todo.media or processor.config.media_recipe()
    unfit = find_unfit(data, samples, media, processor, most=most_share * len(samples))
    return without_unfit(samples, unfit, most_share, report=job.group.first), unfit


def _ask_share(
    job: _Job, folder: Path, questions: Questions, ablations: Sequence[Ablation], done: _Asked
) -> None:
    """Asks this process's share of what is missing, batch by batch, and keeps the answers as they come."""
    asker, decode = _asker(job, folder)
    mine = _share(questions.batches(job.todo.batch_size), ablations, job.group, done)
    planned = sum(len(_left(batch, ablation, done)) for batch in mine for ablation in ablations)
    metrics = EvaluationMetrics(job.run, _experiment(job), planned=planned)
    asked = 0
    with serve_metrics(metrics) if job.group.first else nullcontext():
        for ablation, part in _asked(asker, questions.decoded(mine, decode), ablations, done):
            job.parts.keep(part)
            asked += len(part.predictions)
            metrics.answered(len(part.predictions))
            if job.group.first:
                report_progress("evaluate", asked, planned, ablation.name.replace("_", " "))


def _experiment(job: _Job) -> str:
    """The experiment of the run; empty for a model that was not trained here."""
    try:
        return str(job.store.get_json(f"runs/{job.run}/request.json")["experiment"]["id"])
    except ObjectMissing:
        return ""


def _share(
    batches: Sequence[Sequence[Sample]], ablations: Sequence[Ablation], group: Group, done: _Asked
) -> list[Sequence[Sample]]:
    """This process's batches of those in which an answer is missing."""
    return [batch for batch in batches if any(_left(batch, one, done) for one in ablations)][
        group.rank :: group.size
    ]


def _left(batch: Sequence[Sample], ablation: Ablation, done: _Asked) -> list[Sample]:
    return [sample for sample in batch if (sample.id, ablation.name) not in done]


def _asked(
    asker: Asker, batches: Iterable[Sequence[Question]], ablations: Sequence[Ablation], done: _Asked
) -> Iterator[tuple[Ablation, Part]]:
    for batch in batches:
        said = Asked()
        for ablation in ablations:
            left = [one for one in batch if (one.sample.id, ablation.name) not in done]
            if left:
                yield ablation, asker.ask(left, ablation, said)


def _fetch(job: _Job, work: Path) -> tuple[Path, Path]:
    """Verified local copies of the data and of the model."""
    todo, store = job.todo, job.store
    commit = read_commit(store, todo.dataset.name, todo.dataset.commit)
    data = checkout(store, commit, work / "data" / commit.id[:16], (todo.split,))
    uri, digest = todo.checkpoint.uri, todo.checkpoint.digest
    manifest = read_manifest(store, uri)
    if manifest.digest != digest:
        raise CheckpointError(
            f"{uri} is another checkpoint than run {job.run} ended with: its manifest says "
            f"{manifest.digest}, the request {digest}; train again"
        )
    folder = work / "models" / digest
    fetch_checkpoint(store, uri, folder, [name for name in manifest.files if name.startswith("model/")])
    return data, folder / "model"


def _asker(job: _Job, folder: Path) -> tuple[Asker, Callable[[Path, Sample], Clip]]:
    """The model, and how it wants media to be decoded."""
    model, processor = load_model(folder)
    if torch.cuda.is_available():
        model.to(torch.device("cuda", job.group.local_rank))  # type: ignore[arg-type]
    asker = Asker(model, processor, max_new_tokens=job.todo.max_new_tokens, rule=job.todo.task.rule)
    media = job.todo.media or processor.config.media_recipe()
    return asker, partial(load_clip, media=media, resizing=processor.image_resizing())


def _finish(
    job: _Job,
    samples: Sequence[Sample],
    unfit: Sequence[Unfit],
    ablations: Sequence[Ablation],
    started: float,
) -> None:
    """Joins the parts in the order of samples and ablations, judges them, and says how they came about."""
    parts, todo = job.parts.read(), job.todo
    predictions = _in_order(parts, samples, ablations)
    lines = "".join(prediction.to_json_line() for prediction in predictions).encode()
    job.store.put_bytes(f"{job.prefix}predictions.jsonl", lines)
    judged = evaluate_predictions(predictions, draws=todo.bootstrap_draws, seed=todo.seed)
    about = {
        "identity": todo.identity(),
        "task": todo.task.model_dump(mode="json"),
        "dataset": {**todo.dataset.model_dump(), "split": todo.split},
        "checkpoint": todo.checkpoint.model_dump(),
        "predictions_sha256": hashlib.sha256(lines).hexdigest(),
        "left_out": {} if SHUFFLED_AUDIO in ablations else {SHUFFLED_AUDIO.name: _NO_EXCHANGE},
        "unfit": [asdict(one) for one in unfit],
        "cost": total_cost(parts).to_json(processes=job.group.size),
        "seconds": round(time.monotonic() - started, 3),
    }
    job.store.put_json(f"{job.prefix}evaluation.json", judged | about)
    job.parts.clear()


def _in_order(
    parts: Sequence[Part], samples: Sequence[Sample], ablations: Sequence[Ablation]
) -> list[Prediction]:
    answers = [prediction for part in parts for prediction in part.predictions]
    given = Counter((answer.id, answer.ablation) for answer in answers)
    wanted = [(sample.id, ablation.name) for sample in samples for ablation in ablations]
    if given != Counter(wanted):
        odd = next(iter((given - Counter(wanted)) + (Counter(wanted) - given)))
        raise EvaluationError(
            f"{len(answers)} answers to {len(wanted)} questions, such as sample {odd[0]} under {odd[1]}: "
            "is another job evaluating the same? evaluate again when it has ended"
        )
    by_key = {(answer.id, answer.ablation): answer for answer in answers}
    return [by_key[key] for key in wanted]
