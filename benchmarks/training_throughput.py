"""Benchmark of training, compared with the transformers Trainer: `python -m benchmarks.training_throughput`.

Two processes train the same small model (SigLIP, wav2vec2, Qwen3) on the same samples of mixed length: text,
audio, and videos with audio of one to sixteen seconds. Three ways take turns in one process group:

- llava-av: packed rows, balanced over the processes by estimated cost, the recipe's engine;
- Trainer: its defaults, which pad each batch to its longest sample, with DistributedDataParallel;
- Trainer, grouped: the same with `group_by_length`.

Each round is one epoch, so that all ways train on the same samples; grouping puts the longest ones first.
Clips are decoded and encoded before the clock starts, so that the loaders only collate. The table has useful
tokens, without padding, per second of all processes: the median over the rounds, and the ratio of llava-av.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import Dataset
from transformers import Trainer as TransformersTrainer
from transformers import TrainerCallback, TrainingArguments

from llava_av.datasets.schema import Sample
from llava_av.media.clip import Clip, SampleSize, Video
from llava_av.model import Encoded, LlavaAvProcessor, fresh_model
from llava_av.processes.termination import Termination
from llava_av.recipe import Recipe, load_recipe
from llava_av.services.ports import free_ports
from llava_av.training.bad_samples import BadSamples
from llava_av.training.encoded_cache import EncodedCache
from llava_av.training.engines import build_engine, start_processes
from llava_av.training.loader import Loader
from llava_av.training.model_flops import ModelFlops, trained_shares
from llava_av.training.order import SampleOrder
from llava_av.training.profiling import StepProfiler
from llava_av.training.sample_costs import CostEstimate
from llava_av.training.throughput import Throughput
from llava_av.training.trainer import EngineModel, StepObservers, Trainer

_PROCESSES = 2
_ANSWERS = ("red", "A red ball rises, then a low tone follows.", "It is a long story about tones. " * 4)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One of the ways that take turns."""

    name: str
    train: Callable[[], tuple[float, float]]
    """Trains some steps, and returns useful tokens of all processes and seconds."""


class _Encoded(Dataset[dict[str, Any]]):
    """Encoded samples by index, with their lengths, as the Trainer reads them."""

    def __init__(self, encoded: Sequence[Encoded]) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"encoded": self._encoded[index], "input_ids": self._encoded[index].input_ids}


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Times the steps of a Trainer, from when it has the first batch."""

    def __init__(self) -> None:
        self.started: float | None = None
        self.seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self.started is None:
            self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert self.started is not None
        self.seconds = time.perf_counter() - self.started


def recipe_of(steps: int, batch: int, pack_length: int, width: int, engine: str) -> Recipe:
    """Return the dry run's recipe with a wider model and packed rows."""
    heads = width // 32
    return load_recipe("dryrun").with_overrides(
        {
            "training.steps": steps,
            "training.global_batch_size": batch,
            "training.num_processes": _PROCESSES,
            "training.pack_length": pack_length,
            "training.engine": engine,
            "training.warmup_kinds": [],
            "training.warmup_kind_steps": 0,
            "model.language.hidden_size": width,
            "model.language.intermediate_size": 3 * width,
            "model.language.num_attention_heads": heads,
            "model.language.num_key_value_heads": heads,
            "model.resampler_options": {"stride": 2},
            "model.audio_downsampler_options": {"size": 5},
        }
    )


def samples_of(count: int) -> tuple[list[Sample], list[Clip]]:
    """Return questions about clips of all lengths, two about each clip."""
    draw = np.random.default_rng(0)
    samples, clips = [], []
    for number in range(count // 2):
        seconds = float(np.clip(draw.lognormal(1.2, 0.8), 1, 16))
        kind = draw.random()
        audio = draw.normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)
        clip = Clip()
        if kind > 0.45:
            frames = int(2 * seconds)
            clip = Clip(
                videos=(
                    Video(
                        frames_nhwc=draw.integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8),
                        frame_times_s=tuple(0.25 + 0.5 * index for index in range(frames)),
                        audio=audio,
                    ),
                )
            )
        elif kind > 0.2:
            clip = Clip(audios=(audio,))
        for question in range(2):
            answer = _ANSWERS[int(draw.integers(len(_ANSWERS)))]
            turns = [{"from": "human", "value": "What happens?"}, {"from": "gpt", "value": answer}]
            media = {"audio": [str(number)]} if kind > 0.2 else {}
            named = {"id": f"{number}-{question}", "conversations": turns, **media}
            samples.append(Sample.model_validate(named))
            clips.append(clip)
    return samples, clips


def ours(
    recipe: Recipe, samples: Sequence[Sample], clips: Sequence[Clip], encoded: Sequence[Encoded]
) -> Callable[[], tuple[float, float]]:
    """Return the training of llava-av."""
    model, processor = fresh_model(recipe, _ANSWERS)
    flops, trained = ModelFlops(model.config), trained_shares(model)
    sizes = [size_of(one) for one in encoded]
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    by_id = {sample.id: clip for sample, clip in zip(samples, clips, strict=True)}
    cache = EncodedCache(processor, lambda sample: by_id[sample.id], max_bytes=2**32)
    for sample in samples:
        cache.get(sample)
    order = SampleOrder(samples, seed=0, recipe=recipe.training)
    estimate = CostEstimate(flops, trained=trained)
    costs = [estimate.of(sample, size) for sample, size in zip(samples, sizes, strict=True)]
    loader = Loader(samples, costs, processor, cache, order, recipe.training, rank=rank, processes=processes)
    observers = StepObservers(
        bad_samples=BadSamples(len(samples), 0.0),
        termination=Termination(),
        throughput=Throughput(flops, trained, "fp32", processes),
        profiler=StepProfiler(0, Path(), lambda _: None),
    )
    engine = build_engine(model.train(), recipe)
    trainer = Trainer(
        EngineModel(engine=engine, config=model.config, device=torch.device("cpu")),
        recipe,
        samples,
        observers,
    )

    def train() -> tuple[float, float]:
        tokens, started = 0.0, None
        for batch in loader.batches(range(recipe.training.steps)):
            started = started or time.perf_counter()
            metrics = trainer.measure(trainer.step(batch))
            tokens += metrics["tokens_per_s"] * metrics["step_s"]
        assert started is not None
        return tokens, time.perf_counter() - started

    return train


def theirs(
    recipe: Recipe, processor: LlavaAvProcessor, encoded: Sequence[Encoded], *, grouped: bool
) -> Callable[[], tuple[float, float]]:
    """Return the training of transformers."""
    steps = recipe.training.steps

    def train() -> tuple[float, float]:
        model, _ = fresh_model(recipe, _ANSWERS)
        seen = torch.zeros(1)

        def collate(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
            chosen = [one["encoded"] for one in several]
            seen.add_(sum(len(one.input_ids) for one in chosen))
            return dict(processor.collate(chosen))

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                per_device_train_batch_size=recipe.training.global_batch_size // _PROCESSES,
                max_steps=steps,
                learning_rate=recipe.optimizer.learning_rate,
                train_sampling_strategy="group_by_length" if grouped else "random",
                ddp_find_unused_parameters=False,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                remove_unused_columns=False,
                disable_tqdm=True,
            )
            clock = _Clock()
            TransformersTrainer(
                model,
                arguments,
                train_dataset=_Encoded(encoded),
                data_collator=collate,
                callbacks=[clock],
            ).train()
        distributed.all_reduce(seen)
        return float(seen), clock.seconds

    return train


def size_of(encoded: Encoded) -> SampleSize:
    """Return the size of an encoded sample without images."""
    return SampleSize(
        tokens=len(encoded.input_ids),
        frames=tuple(map(len, encoded.frames_nhwc)),
        audios=tuple(map(len, encoded.audios)),
    )


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the useful tokens per second of each way in each round."""
    torch.set_num_threads(1)
    steps = arguments.samples // arguments.batch
    recipe = recipe_of(steps, arguments.batch, arguments.pack_length, arguments.width, arguments.engine)
    start_processes(arguments.engine)
    samples, clips = samples_of(arguments.samples)
    _, processor = fresh_model(recipe, _ANSWERS)
    encoded = [
        processor.encode([(turn.speaker, turn.value) for turn in sample.conversations], clip)
        for sample, clip in zip(samples, clips, strict=True)
    ]
    ways = (
        _Way(name="llava-av", train=ours(recipe, samples, clips, encoded)),
        _Way(name="Trainer", train=theirs(recipe, processor, encoded, grouped=False)),
        _Way(name="Trainer, grouped", train=theirs(recipe, processor, encoded, grouped=True)),
    )
    found: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(arguments.rounds + 1):
        for way in ways:
            tokens, seconds = way.train()
            # The first round warms up.
            if number:
                found[way.name].append(tokens / seconds)
    return found


def main() -> None:
    """Measure in two processes, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="samples of a step over both processes")
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--pack-length", type=int, default=384)
    parser.add_argument("--width", type=int, default=256, help="features of the language model")
    parser.add_argument("--engine", default="deepspeed")
    arguments = parser.parse_args()
    if "RANK" not in os.environ:
        group = ["-m", "torch.distributed.run", f"--nproc-per-node={_PROCESSES}"]
        port = f"--master-port={free_ports(1)[0]}"
        command = [sys.executable, *group, port, "-m", "benchmarks.training_throughput", *sys.argv[1:]]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return
    found = measure(arguments)
    if distributed.get_rank() == 0:
        own = median(found["llava-av"])
        for name, rates in found.items():
            rate = median(rates)
            print(f"{name:18} {rate:8.0f} tokens/s, llava-av {own / rate:.2f} times as fast")
        print(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
