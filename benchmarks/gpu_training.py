"""Ways to train a model in the benchmark on a GPU: llava-av and the transformers Trainer.

Each way takes some steps when it is called, and does not time the first one. The models of both sides
are in memory together, so that the ways can take turns on the same samples; the peak memory of a way leaves
out the other side's model.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer as TransformersTrainer
from transformers import TrainerCallback, TrainingArguments

from benchmarks.gpu_models import Shape, build_model
from benchmarks.gpu_samples import Order, SampleData, load_clip
from llava_av.model import Encoded
from llava_av.model.sequence.packing import packed_attention
from llava_av.processes.termination import Termination
from llava_av.training.bad_samples import BadSamples
from llava_av.training.encoded_cache import EncodedCache
from llava_av.training.engines import build_engine, local_part
from llava_av.training.loader import LoadedBatch, Loader
from llava_av.training.model_flops import BatchCounts, ModelFlops, count_flops, trained_shares
from llava_av.training.profiling import StepProfiler
from llava_av.training.sample_costs import CostEstimate
from llava_av.training.throughput import Throughput
from llava_av.training.trainer import EngineModel, StepObservers, TakenStep, Trainer

__all__ = ["OwnTraining", "Run", "TransformersTraining", "Work", "synchronize"]

_COUNTED = ("attention_mask", "sample_of", "labels", "video_frames", "audio_lengths")
"""Inputs that give the counts of a batch, and are small enough to keep."""
_BATCHES_READY = 2


@dataclass
class Run:
    """Measurement of some steps."""

    seconds: float = 0.0
    wait_s: float = 0.0
    """Time that the steps waited for data."""
    samples: int = 0
    tokens: int = 0
    """Tokens without padding."""
    positions: int = 0
    """Tokens with padding."""
    flops: float = 0.0
    """Model FLOPs as training reports them: frozen parts count in the forward pass only."""
    needed_flops: float = 0.0
    """Model FLOPs with the gradients that pass through the frozen language model to the trained weights."""
    peak_gib: float | None = None
    """Peak memory on the GPU; None on a CPU."""


class Work:
    """Model FLOPs of batches.

    Args:
        flops: Operations of the model's forward pass; None if they cannot be counted.
        trained: Share of trained weights by part.
    """

    def __init__(self, flops: ModelFlops | None, trained: Mapping[str, float]) -> None:
        self._flops, self._trained = flops, trained

    def add(self, run: Run, tensors: Mapping[str, Any]) -> None:
        """Add a batch to a run; its tensors are those of `_COUNTED`."""
        counts = BatchCounts.of(tensors)
        run.samples += len(counts.tokens)
        run.tokens += sum(counts.tokens)
        run.positions += tensors["labels"].numel()
        for part, cost in self._flops.forward(counts).items() if self._flops else ():
            trained = self._trained.get(part, 0.0)
            run.flops += cost * (1 + 2 * trained)
            passes = 2 + trained if part in ("language", "embeddings") else 1 + 2 * trained
            run.needed_flops += cost * passes


def synchronize() -> float:
    """Wait for the device, and return the time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def _measured_memory(run: Run, others: int) -> Iterator[None]:
    """Measure the peak memory of a block, without so many bytes that belong to others."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield
    if torch.cuda.is_available():
        run.peak_gib = (torch.cuda.max_memory_allocated() - others) / 2**30


def _nbytes(tensors: Iterator[Tensor]) -> int:
    return sum(local_part(tensor).nbytes for tensor in tensors)


class OwnTraining:
    """Training of llava-av: the loader, the optimizer step and the engine of a job with one process.

    Args:
        shape: Model and settings.
        data: Samples.
        device: Device of the model.
        attention: Attention of the language model; None for that which training chooses.
    """

    def __init__(
        self, shape: Shape, data: SampleData, device: torch.device, attention: str | None = None
    ) -> None:
        settings: Any = shape
        samples: Any = data.samples
        config = data.processor.config
        model = build_model(shape, config, device)
        self.parameters = sum(weight.numel() for weight in model.parameters())
        chosen = packed_attention(model.language_model, device, shape.training.precision)
        self.attention = attention or chosen
        model.language_model.set_attn_implementation(self.attention)
        flops, trained = count_flops(config), trained_shares(model)
        self.work = Work(flops, trained)
        recomputed = shape.training.activation_checkpointing
        estimate = CostEstimate(flops, trained=trained, recomputed=recomputed)
        costs = [estimate.of(sample, size) for sample, size in zip(samples, data.sizes(), strict=True)]
        load: Any = partial(load_clip, config=config)
        order: Any = Order(len(samples), shape.training.global_batch_size)
        # A cache of one byte: every sample is drawn and encoded again.
        cache = EncodedCache(data.processor, load, max_bytes=1)
        self._loader = Loader(
            samples, costs, data.processor, cache, order, settings.training, rank=0, processes=1
        )
        self._engine = build_engine(model, settings)
        observers = StepObservers(
            bad_samples=BadSamples(len(samples), 0.0),
            termination=Termination(),
            throughput=Throughput(flops, trained, shape.training.precision, 1),
            profiler=StepProfiler(0, Path(), lambda _: None),
        )
        trained_model = EngineModel(engine=self._engine, config=config, device=device)
        self._trainer = Trainer(trained_model, settings, samples, observers)
        self._ready = [self._loader.load(step) for step in range(_BATCHES_READY)]

    def nbytes(self) -> int:
        """Return the memory of the model and its optimizer state."""
        moments = (one for part in self._engine.fragments() for one in part.moments.values())
        return _nbytes(self._engine.model.parameters()) + _nbytes(moments)

    def loaded(self, steps: int, others: int) -> Run:
        """Take steps on batches of the loader, which works one step ahead."""
        return self._run(self._loader.batches(range(steps + 1)), others)

    def ready(self, steps: int, others: int) -> Run:
        """Take steps on batches that are in memory."""
        return self._run((self._ready[step % _BATCHES_READY] for step in range(steps + 1)), others)

    def _run(self, batches: Iterator[LoadedBatch], others: int) -> Run:
        run, started = Run(), 0.0
        with _measured_memory(run, others):
            before: list[TakenStep] = []
            for number, batch in enumerate(batches):
                # As in a training, the metrics of a step are read while the next one runs.
                before.append(self._trainer.step(batch))
                if number:
                    self._trainer.measure(before.pop(0))
                if number == 0:
                    started = synchronize()
                    continue
                run.wait_s += batch.waited_s
                for micro_batch in batch.micro_batches:
                    self.work.add(run, micro_batch.tensors)
            run.seconds = synchronize() - started
        return run


class _EncodedSamples(Dataset[dict[str, Any]]):
    """Encoded samples by index, with the length by which the Trainer groups them."""

    def __init__(self, encoded: Sequence[Encoded]) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"encoded": self._encoded[index], "input_ids": self._encoded[index].input_ids}


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Clock that starts after the first step and stops after the last."""

    def __init__(self) -> None:
        self.started = self.stopped = 0.0

    def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            self.started = synchronize()
        if state.global_step == arguments.max_steps:
            self.stopped = synchronize()


class _CountingTrainer(TransformersTrainer):  # type: ignore[misc]
    """Trainer that keeps the sizes of its batches, and the time for which it waited for them."""

    batches: list[dict[str, Tensor]]
    waits: list[float]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        self.batches.append({name: inputs[name] for name in _COUNTED if name in inputs})
        return super().training_step(model, inputs, *arguments, **options)

    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        found = super().get_batch_samples(*arguments, **options)
        self.waits.append(time.perf_counter() - started)
        return found


@dataclass
class TransformersTraining:
    """Training of transformers on encoded samples, which it only collates."""

    shape: Shape
    data: SampleData
    device: torch.device
    work: Work
    batch: int
    """Samples of a micro-batch."""
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        self.model = build_model(self.shape, self.data.processor.config, self.device)
        self._attention = str(self.model.language_model.config._attn_implementation)

    def nbytes(self) -> int:
        """Return the memory of the model; the Trainer's optimizer goes with it."""
        return _nbytes(self.model.parameters())

    def padded(self, steps: int, others: int) -> Run:
        """Train with the Trainer's defaults, which pad each batch to its longest sample."""
        return self._run(steps, others, self._attention, self._collate_padded)

    def grouped(self, steps: int, others: int) -> Run:
        """Train on samples grouped by length."""
        options = self._fast() | {"train_sampling_strategy": "group_by_length"}
        return self._run(steps, others, self._attention, self._collate_padded, **options)

    def flattened(self, steps: int, others: int) -> Run:
        """Train on batches flattened into one row without padding, with attention for packed rows."""
        precision = self.shape.training.precision
        attention = packed_attention(self.model.language_model, self.device, precision)
        return self._run(steps, others, attention, self._collate_flat, **self._fast())

    def _fast(self) -> dict[str, Any]:
        """Return the fastest settings besides the order of samples."""
        workers = 4 if self.device.type == "cuda" else 0
        return {"dataloader_num_workers": workers, "logging_nan_inf_filter": False}

    def _collate_padded(self, several: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return self.data.processor.collate([one["encoded"] for one in several])

    def _collate_flat(self, several: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return self.data.processor.collate_packed([[one["encoded"] for one in several]])

    def _run(self, steps: int, others: int, attention: str, collate: Any, **options: Any) -> Run:
        self.model.language_model.set_attn_implementation(attention)
        run, clock = Run(), _Clock()
        with tempfile.TemporaryDirectory() as folder, _measured_memory(run, others):
            trainer = _CountingTrainer(
                self.model,
                self._arguments(folder, steps + 1, **options),
                train_dataset=_EncodedSamples(self.data.encoded),
                data_collator=collate,
                callbacks=[clock],
            )
            trainer.batches, trainer.waits = [], []
            trainer.train()
        run.seconds, run.wait_s = clock.stopped - clock.started, sum(trainer.waits[1:])
        for tensors in trainer.batches[len(trainer.batches) // (steps + 1) :]:
            self.work.add(run, tensors)
        return run

    def _arguments(self, folder: str, steps: int, **options: Any) -> TrainingArguments:
        optimizer = self.shape.optimizer
        return TrainingArguments(
            folder,
            per_device_train_batch_size=self.batch,
            gradient_accumulation_steps=self.shape.training.global_batch_size // self.batch,
            max_steps=steps,
            learning_rate=optimizer.learning_rate,
            weight_decay=optimizer.weight_decay,
            bf16=True,
            use_cpu=self.device.type == "cpu",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            remove_unused_columns=False,
            disable_tqdm=True,
            **options,
        )
