"""Training of one stage, from its model to its last checkpoint; a run without stages has a single one."""

import contextlib
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from llava_av.checkpoints import CheckpointRef, base_digest
from llava_av.datasets.loading import load_from
from llava_av.datasets.measuring import measure_samples
from llava_av.datasets.media_stream import MediaStream
from llava_av.datasets.schema import Sample
from llava_av.media.clip import SampleSize
from llava_av.model import LlavaAvForConditionalGeneration
from llava_av.model.parts import recompute_activations
from llava_av.model.sequence.packing import packed_attention
from llava_av.processes.termination import Termination, deferring_sigterm
from llava_av.recipe import TrainingRecipe
from llava_av.runs import BestCheckpoint, MixShare, TrainedCheckpoint, TrainedStage
from llava_av.tracking.prometheus import TrainingMetrics
from llava_av.training.checkpointer import Checkpointer
from llava_av.training.collective import largest_of_processes
from llava_av.training.encoded_cache import EncodedCache
from llava_av.training.engines import Engine, build_engine, move_to
from llava_av.training.fresh_start import forget_fresh_weights
from llava_av.training.job_context import Datasets, JobContext, TrainingData, load_model
from llava_av.training.loader import Loader
from llava_av.training.loop import run_steps
from llava_av.training.mix import MixReport, mix_weights, warn_of_undrawn
from llava_av.training.model_flops import count_flops, trained_shares
from llava_av.training.order import SampleOrder
from llava_av.training.phases import Phases
from llava_av.training.profiling import StepProfiler
from llava_av.training.random_state import seed_generators
from llava_av.training.recording import TrackedJournal, track
from llava_av.training.row_filling import SampleCost
from llava_av.training.sample_costs import CostEstimate
from llava_av.training.selection import HeldOut, best_checkpoint, read_losses
from llava_av.training.stage_samples import FitSamples
from llava_av.training.stages import require_later_stages
from llava_av.training.step_meter import StepMeter
from llava_av.training.streamed_decoding import streamed_decoding
from llava_av.training.throughput import Throughput
from llava_av.training.trainer import EngineModel, StepObservers, Trainer
from llava_av.training.validation import build_validator

__all__ = ["SharedByStages", "StageEnd", "train_stage"]

_LOG = logging.getLogger(__name__)

_CACHE_BYTES = 2**30


@dataclass(kw_only=True)
class SharedByStages:
    """State that all stages of a job share."""

    datasets: Datasets
    media: MediaStream
    fit: FitSamples
    exported: TrainingMetrics
    phases: Phases
    profiler: StepProfiler
    block: contextlib.ExitStack
    """Block of all steps; the records of the job are finished when it ends."""
    tracked: TrackedJournal | None = None
    """None before the first stage has its model."""
    termination: Termination = field(default_factory=Termination)
    resumed_from: int | None = None
    """Step of the checkpoint that the job resumed from."""

    def track(self, job: JobContext, first_step: int) -> TrackedJournal:
        """Return the journal of the job; its first call keeps SIGTERM as a request from then on."""
        if self.tracked is None:
            self.termination = self.block.enter_context(deferring_sigterm())
            tracking = track(job, first_step, self.exported, self.fit.bad)
            self.tracked = self.block.enter_context(tracking)
        return self.tracked


@dataclass(frozen=True, kw_only=True)
class StageEnd:
    """Result of a stage."""

    last: CheckpointRef
    best: BestCheckpoint | None
    result: TrainedCheckpoint
    """Last or best checkpoint, as the recipe says; like `best` and `mix`, known to rank zero only."""
    parameters: int
    mix: tuple[MixShare, ...]
    terminated: bool
    """True if a process got SIGTERM since the last step, and another stage would follow."""

    def trained(self, job: JobContext) -> TrainedStage:
        """Return the record of the stage."""
        return TrainedStage(
            name=job.stage.span.name,
            first_step=job.stage.span.first,
            last_step=self.last.step,
            checkpoint=self.result,
            model_digest=base_digest(self.result.uri) if job.recipe.model.adapter is None else None,
            best=self.best,
            mix=self.mix,
        )


def train_stage(job: JobContext, shared: SharedByStages, *, more: bool) -> StageEnd:
    """Train or resume the stage of a job; all processes call it together.

    If another stage follows, the memory of this one is free afterwards.

    Args:
        job: The job in the stage.
        shared: State that all stages share.
        more: True if the job trains another stage after this one.

    Raises:
        NonFiniteError: The loss, the gradient or the state to save is not finite.
        TerminatedError: A process got SIGTERM before the last step; a checkpoint holds all steps.
    """
    span, data = job.stage.span, shared.datasets.select(job.recipe)
    if span.name:
        shared.phases.start_stage(span.name)
        shared.exported.enter_stage(span.index)
    if job.is_rank_zero:
        data.warn_of_left_out()
        _report_start(job)
    stage = _StageTraining(job, shared, data)
    ended = stage.run(more=more)
    if more:
        stage.close()
        del stage
        # Models and engines refer to themselves.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return ended


def _report_start(job: JobContext) -> None:
    span = job.stage.span
    if span.name:
        base = job.stage.earlier[-1].checkpoint.uri if job.stage.earlier else "the model of the recipe"
        place, count = span.index + 1, len(job.request.recipe.stages)
        text = "stage %s (%d of %d), steps %d to %d, starts from %s"
        _LOG.info(text, span.name, place, count, span.first, span.end - 1, base)


class _StageTraining:
    """Engine, samples and checkpoints of a stage."""

    def __init__(self, job: JobContext, shared: SharedByStages, data: TrainingData) -> None:
        self._job, self._shared, self._data = job, shared, data
        job.report_phase("loading the model")
        self._model, self._processor = model, processor = load_model(job, data.train)
        if shared.tracked is None:
            require_later_stages(job.request.recipe, job.stage.span.index, model.config)
        job.report_phase("checking that the samples fit the model")
        self._samples, sizes = shared.fit.select(data.train, processor)
        self._device = _prepare(model, job.recipe.training)
        # Counted first, because an engine may shard the weights.
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        self._flops, self._trained = count_flops(model.config), trained_shares(model)
        self._costs = self._estimated(sizes)
        self._weights = mix_weights(job.recipe, self._samples)
        self._new_order = job.stage.new_order(self._samples, self._weights)
        job.report_phase("preparing the engine")
        self._engine: Engine = build_engine(model, job.recipe)
        forget_fresh_weights(job.folder)
        seed_generators(job.stage.seed, job.rank)
        self._checkpointer = Checkpointer(
            job.run.store,
            job.run.id,
            job.recipe,
            self._engine,
            model,
            processor,
            job.folder,
            job.stage,
        )

    def run(self, *, more: bool) -> StageEnd:
        """Take the remaining steps; see `train_stage`."""
        job, shared, recipe = self._job, self._shared, self._job.recipe
        job.report_phase("looking for a checkpoint to resume from")
        checkpointer, resumed = self._checkpointer, self._restore()
        span = job.stage.span
        steps = range(resumed.step if resumed else span.first, span.end)
        if job.is_rank_zero:
            warn_of_undrawn(self._samples, recipe.training, self._weights)
        validator = build_validator(
            job, self._engine, self._processor, self._data, shared.media, self._device
        )
        tracked = shared.track(job, steps.start)
        warmup_end = span.first + recipe.training.warmup_kind_steps
        tracked.enter_stage(span, _samples_by_step(self._samples, self._new_order), warmup_end)
        mix = MixReport(self._samples, self._weights, self._data.left_out, self._new_order)
        with checkpointer, self._decoding() as cache:
            losses = read_losses(recipe.training, tracked.journal.rows(), first_step=span.first)
            held_out = HeldOut(validator=validator, losses=losses)
            throughput = Throughput(self._flops, self._trained, recipe.training.precision, job.processes)
            observers = StepObservers(
                bad_samples=shared.fit.bad,
                termination=shared.termination,
                throughput=throughput,
                profiler=shared.profiler,
            )
            model = EngineModel(engine=self._engine, config=self._model.config, device=self._device)
            self._trainer = trainer = Trainer(model, recipe, self._samples, observers, first_step=span.first)
            job.report_phase("decoding the first samples")
            batches = self._loader(cache).batches(steps)
            try:
                last = run_steps(job, trainer, batches, checkpointer, tracked, shared.phases, held_out, mix)
            finally:
                # A checkpoint may still be written.
                shared.phases.save_checkpoint(span.end)
            last = last or resumed
            assert last is not None, "a stage has at least one step, and its last one has a checkpoint"
        # Rank zero alone lists the checkpoints.
        best = best_checkpoint(job.run, losses) if job.is_rank_zero else None
        chosen = best if best is not None and recipe.training.result_checkpoint == "best" else last
        return StageEnd(
            last=last,
            best=best,
            result=TrainedCheckpoint(uri=chosen.uri, digest=chosen.digest, step=chosen.step),
            parameters=self._parameters,
            mix=mix.shares(tracked.rows(span)),
            terminated=more and largest_of_processes(int(shared.termination.requested)) > 0,
        )

    def close(self) -> None:
        """Release engine and process groups."""
        self._engine.close()
        self._trainer.close()
        if isinstance(self._costs, StepMeter):
            self._costs.close()
        self._checkpointer.close()

    def _restore(self) -> CheckpointRef | None:
        """Return the checkpoint of the stage that training resumes from, if there is one."""
        resumed = self._checkpointer.restore()
        if resumed:
            self._shared.exported.resumed(resumed.step)
            if self._shared.tracked is None:
                # The first stage of the job.
                self._shared.resumed_from = resumed.step
            if self._job.is_rank_zero:
                _LOG.info("training resumes from step %d, %s", resumed.step, resumed.uri)
        return resumed

    @contextlib.contextmanager
    def _decoding(self) -> Iterator[EncodedCache]:
        """Yield the cache of clips, which processes decode if there are cores for them."""
        stream, recipe = self._shared.media, self._job.recipe.media
        resizing = self._processor.image_resizing()
        load = partial(load_from, stream, recipe=recipe, resizing=resizing)
        with streamed_decoding(stream, recipe, resizing) as processes:
            yield EncodedCache(self._processor, load, max_bytes=_CACHE_BYTES, processes=processes)

    def _loader(self, cache: EncodedCache) -> Loader:
        job, recipe = self._job, self._job.recipe
        return Loader(
            self._samples,
            self._costs,
            self._processor,
            cache,
            self._new_order(),
            recipe.training,
            rank=job.rank,
            processes=job.processes,
            stream=self._shared.media,
        )

    def _estimated(self, sizes: Iterable[SampleSize] | None) -> Sequence[SampleCost] | StepMeter:
        """Return the costs of the samples from their sizes, or a meter if these are not known yet."""
        recipe = self._job.recipe
        estimate = CostEstimate(
            self._flops, trained=self._trained, recomputed=recipe.training.activation_checkpointing
        )
        if sizes is not None:
            return [estimate.of(sample, size) for sample, size in zip(self._samples, sizes, strict=True)]
        measure = partial(
            measure_samples,
            self._shared.media.with_headers,
            media=recipe.media,
            processor=self._processor,
            row_tokens=recipe.training.pack_length,
        )
        return StepMeter(self._samples, measure, estimate)


def _samples_by_step(
    samples: Sequence[Sample], new_order: Callable[[], SampleOrder]
) -> Callable[[int], list[str]]:
    """Return a function that returns the IDs of the samples of a step."""
    # A new order each time, since the loader's thread uses its own.
    return lambda step: [samples[index].id for index in new_order().step(step)]


def _prepare(model: LlavaAvForConditionalGeneration, training: TrainingRecipe) -> torch.device:
    """Prepare a model for training, and return its device."""
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")
    move_to(model.train(), device)
    if training.pack_length is not None:
        model.language_model.set_attn_implementation(
            packed_attention(model.language_model, device, training.precision)
        )
    recompute_activations(model, training.activation_checkpointing)
    return device
