"""Evaluation job: its processes share the questions, answer them under every ablation and score them."""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from llava_av.checkpoints import (
    CheckpointError,
    fetch_adapter_base,
    fetch_checkpoint,
    fetched_folder,
    model_files,
    read_manifest,
)
from llava_av.datasets.commit_files import CommitFiles
from llava_av.datasets.commits import read_commit
from llava_av.datasets.loading import load_clip
from llava_av.datasets.measuring import find_unfit
from llava_av.datasets.media_source import MediaSource
from llava_av.datasets.media_stream import CACHE_FOLDER, streamed_files
from llava_av.datasets.sample_table import sample_table
from llava_av.datasets.schema import Sample
from llava_av.datasets.unfit import Unfit, without_unfit
from llava_av.evaluation.aggregation import evaluate_predictions
from llava_av.evaluation.answering import AnswerCache, Answerer
from llava_av.evaluation.job_request import read_work
from llava_av.evaluation.partial_answers import Parts, evaluation_cost
from llava_av.evaluation.process_group import ProcessGroup, joined_group
from llava_av.evaluation.question_batches import Question, Questions
from llava_av.evaluation.scoring import EvaluationError
from llava_av.media.clip import Clip
from llava_av.model import LlavaAvProcessor, load_saved_model
from llava_av.processes import report_progress
from llava_av.processes.heartbeat import Limits, beating
from llava_av.recipe import DataRecipe
from llava_av.runs import (
    AnswerPart,
    EvaluatedDataset,
    EvaluationResult,
    EvaluationWork,
    Prediction,
    Run,
    RunRequest,
    UnfitSample,
)
from llava_av.runs.names import PREDICTIONS
from llava_av.storage import ObjectStore
from llava_av.tracking.prometheus import EvaluationMetrics, serve_metrics
from llava_av.vocabulary import Ablation

__all__ = ["evaluate"]

_LOG = logging.getLogger(__name__)

_Done = Collection[tuple[str, str]]
_ABLATIONS = tuple(Ablation)
_WITHOUT_SHUFFLING = tuple(ablation for ablation in Ablation if ablation is not Ablation.SHUFFLED_AUDIO)
_NO_SHUFFLING = "fewer than two clips have audio to exchange"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """State that the functions of one job share."""

    run: Run
    at: str
    """Prefix of the evaluation below the run, with its `/`; empty for the run's own evaluation."""
    request: RunRequest | None
    """None for a model that this project did not train."""
    work: EvaluationWork
    group: ProcessGroup
    parts: Parts


def evaluate(run: str, work: Path, at: str = "") -> None:
    """Evaluate a checkpoint, and write predictions.jsonl and then evaluation.json to S3.

    Each batch of answers is written to S3 at once. A restarted job asks only the missing questions, also with
    another batch size or number of processes.

    Args:
        run: Run ID.
        work: Local folder for copies of data and checkpoint.
        at: Prefix below the run with the request of the evaluation, for its results; empty for the run's own
            evaluation of the checkpoint that its train.json names.

    Raises:
        UserError: The data, the storage or the checkpoint cannot be used.
    """
    started = time.monotonic()
    job = _open(run, at)
    # Processes finish their shares at different times, so only a missing heartbeat shows that one has died.
    with beating(Limits.from_env()):
        _evaluate(job, work, started)
        job.group.wait()
    job.group.leave()


def _evaluate(job: _Job, work: Path, started: float) -> None:
    _report_phase(job, "fetching the model and the samples")
    folders = job.group.local_rank_zero_first(lambda: _fetch_model(job, work))
    store, dataset, cache = job.run.store, job.work.dataset, work / CACHE_FOLDER
    commit = read_commit(store, dataset.name, dataset.commit)
    every = sample_table(store, commit, job.work.split, cache / "samples")
    with streamed_files(CommitFiles(store, commit, cache / "files").find, work) as media:
        _evaluate_samples(job, folders, every, media, started)


def _evaluate_samples(
    job: _Job, folders: tuple[Path, Path | None], every: Sequence[Sample], media: MediaSource, started: float
) -> None:
    _report_phase(job, "checking that the samples fit the model")
    samples, unfit = _fit_samples(job, every, media, folders[0])
    questions = Questions(media, samples, seed=job.work.seed)
    ablations = _ABLATIONS if questions.can_exchange_audio else _WITHOUT_SHUFFLING
    total = len(samples) * len(ablations)
    done = {(item.id, item.ablation) for part in job.parts.read() for item in part.predictions}
    # All processes read before any process writes, so that they agree on the missing answers.
    job.group.wait()
    if done and job.group.is_rank_zero:
        _LOG.info("%d of %d answers already exist", len(done), total)
    if len(done) < total:
        _report_phase(job, "loading the model")
        _ask_share(job, folders, questions, ablations, done)
    job.group.wait()
    if job.group.is_rank_zero:
        _finish(job, samples, unfit, ablations, started)


def _report_phase(job: _Job, name: str) -> None:
    if job.group.is_rank_zero:
        report_progress("evaluate", 0, 0, name)


def _open(run_id: str, at: str) -> _Job:
    run = Run(store=ObjectStore.from_env(), id=run_id)
    at = f"{at.rstrip('/')}/" if at else ""
    work = read_work(run, at)
    parts = Parts(run.store, run.path(at), work.identity())
    request = run.find(RunRequest)
    return _Job(run=run, at=at, request=request, work=work, group=joined_group(), parts=parts)


def _fit_samples(
    job: _Job, samples: Sequence[Sample], source: MediaSource, folder: Path
) -> tuple[tuple[Sample, ...], tuple[Unfit, ...]]:
    """Return the samples that the model supports, and the unfit samples.

    Each process checks its share of the samples, and all processes return the same result.
    """
    processor = LlavaAvProcessor.from_pretrained(folder)
    recipe = job.request.recipe.data if job.request is not None and not job.at else DataRecipe()
    media = job.work.media or processor.config.media_recipe()
    share = -(-len(samples) // job.group.size)
    own = samples[job.group.rank * share : (job.group.rank + 1) * share]
    found = find_unfit(source, own, media, processor, most=recipe.max_bad_share * len(samples))
    unfit = tuple(one for part in job.group.gather(found) for one in part)
    return without_unfit(samples, unfit, recipe.max_bad_share, report=job.group.is_rank_zero), unfit


def _ask_share(
    job: _Job,
    folders: tuple[Path, Path | None],
    questions: Questions,
    ablations: Sequence[Ablation],
    done: _Done,
) -> None:
    """Ask this process's share of the missing questions, and write the answers of each batch at once."""
    answerer, decode = _load_answerer(job, *folders)
    mine = _share(questions.batches(job.work.batch_size), ablations, job.group, done)
    planned = sum(len(_left(batch, ablation, done)) for batch in mine for ablation in ablations)
    experiment = job.request.experiment.id if job.request else ""
    metrics = EvaluationMetrics(job.run.id, experiment, planned=planned)
    answered = 0
    with serve_metrics(metrics) if job.group.is_rank_zero else nullcontext():
        for ablation, part in _answers(answerer, questions.decoded(mine, decode), ablations, done):
            job.parts.keep(part)
            answered += len(part.predictions)
            metrics.answered(len(part.predictions))
            if job.group.is_rank_zero:
                report_progress("evaluate", answered, planned, ablation.replace("_", " "))


def _share(
    batches: Sequence[Sequence[Sample]], ablations: Sequence[Ablation], group: ProcessGroup, done: _Done
) -> list[Sequence[Sample]]:
    """Return this process's share of the batches that lack an answer."""
    return [batch for batch in batches if any(_left(batch, one, done) for one in ablations)][
        group.rank :: group.size
    ]


def _left(batch: Sequence[Sample], ablation: Ablation, done: _Done) -> list[Sample]:
    return [sample for sample in batch if (sample.id, ablation) not in done]


def _answers(
    answerer: Answerer, batches: Iterable[Sequence[Question]], ablations: Sequence[Ablation], done: _Done
) -> Iterator[tuple[Ablation, AnswerPart]]:
    for batch in batches:
        results = AnswerCache()
        for ablation in ablations:
            left = [one for one in batch if (one.sample.id, ablation) not in done]
            if left:
                yield ablation, answerer.answer(left, ablation, results)


def _fetch_model(job: _Job, work: Path) -> tuple[Path, Path | None]:
    """Return verified local copies of the model, and of the base model of an adapter."""
    store = job.run.store
    uri, digest = job.work.checkpoint.uri, job.work.checkpoint.digest
    manifest = read_manifest(store, uri)
    if manifest.digest != digest:
        raise CheckpointError(
            f"cannot evaluate {uri}: its manifest has digest {manifest.digest}, but the request of run "
            f"{job.run.id} has digest {digest}: train again"
        )
    folder = fetched_folder(work, digest)
    fetch_checkpoint(store, uri, folder, model_files(manifest, uri))
    return folder / "model", fetch_adapter_base(folder / "model", work)


def _load_answerer(
    job: _Job, folder: Path, base: Path | None
) -> tuple[Answerer, Callable[[Mapping[str, Path], Sample], Clip]]:
    """Return the answerer for the model, and a function that decodes media for the model."""
    model, processor = load_saved_model(folder, base)
    if torch.cuda.is_available():
        model.to(torch.device("cuda", job.group.local_rank))  # type: ignore[arg-type]
    answerer = Answerer(model, processor, max_new_tokens=job.work.max_new_tokens, rule=job.work.task.rule)
    media = job.work.media or processor.config.media_recipe()
    return answerer, partial(load_clip, media=media, resizing=processor.image_resizing())


def _finish(
    job: _Job,
    samples: Sequence[Sample],
    unfit: Sequence[Unfit],
    ablations: Sequence[Ablation],
    started: float,
) -> None:
    """Join the parts in the order of samples and ablations, score them, and write the result last."""
    parts, work = job.parts.read(), job.work
    predictions = _in_order(parts, samples, ablations)
    lines = "".join(prediction.to_json_line() for prediction in predictions).encode()
    job.run.store.put_bytes(job.run.path(f"{job.at}{PREDICTIONS}"), lines)
    scores = evaluate_predictions(predictions, draws=work.bootstrap_draws, seed=work.seed)
    shuffled = Ablation.SHUFFLED_AUDIO
    result = EvaluationResult(
        **dict(scores),
        identity=work.identity(),
        task=work.task,
        dataset=EvaluatedDataset(**dict(work.dataset), split=work.split),
        checkpoint=work.checkpoint,
        predictions_sha256=hashlib.sha256(lines).hexdigest(),
        left_out={} if shuffled in ablations else {str(shuffled): _NO_SHUFFLING},
        unfit=tuple(UnfitSample(id=one.id, reason=one.reason) for one in unfit),
        cost=evaluation_cost(parts, processes=job.group.size),
        seconds=round(time.monotonic() - started, 3),
    )
    job.run.write(result, job.at)
    job.parts.clear()


def _in_order(
    parts: Sequence[AnswerPart], samples: Sequence[Sample], ablations: Sequence[Ablation]
) -> list[Prediction]:
    answers = [prediction for part in parts for prediction in part.predictions]
    given = Counter((answer.id, answer.ablation) for answer in answers)
    wanted = [(sample.id, str(ablation)) for sample in samples for ablation in ablations]
    if given != Counter(wanted):
        odd = next(iter((given - Counter(wanted)) + (Counter(wanted) - given)))
        raise EvaluationError(
            f"expected {len(wanted)} answers, found {len(answers)}; the first wrong one is for "
            f"sample {odd[0]} under {odd[1]}: wait for other jobs of this evaluation, then evaluate again"
        )
    by_key = {(answer.id, answer.ablation): answer for answer in answers}
    return [by_key[key] for key in wanted]
