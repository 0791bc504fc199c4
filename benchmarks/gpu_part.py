"""One model of the benchmark on a GPU, in a process of its own: `benchmarks.gpu` starts it.

All ways to train run in turn until the time is over. The result is written after each run, so that a process
that ends early leaves the earlier runs.
"""

import argparse
import contextlib
import gc
import json
import platform
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import distributed

from benchmarks.gpu_models import SHAPES, Shape
from benchmarks.gpu_samples import SampleData
from benchmarks.gpu_training import OwnTraining, Run, TransformersTraining
from llava_av.processes import set_variables
from llava_av.training.engines import start_processes
from llava_av.training.gpu_peaks import peak_flops

__all__ = ["OUT_OF_MEMORY", "OWN", "measure"]

OWN = "llava-av"
"""Start of the name of this project's ways."""
OUT_OF_MEMORY = "out of memory"
_BATCH, _SMALL_BATCH = 32, 8
"""Samples of an optimizer step."""
_EPOCH = 2
"""Steps after which samples repeat."""
_MICRO_BATCH = 4
"""Samples of the Trainer's micro-batch: about as many as a packed row holds."""
_ROUNDS = 20


@dataclass
class Way:
    """One of the ways that take turns, with its runs."""

    name: str
    train: Callable[[int, int], Run]
    others: Callable[[], int]
    """Returns the memory that belongs to the other side."""
    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Deviations from the plan."""
    has_failed: bool = False
    took_s: float = 0.0
    """Duration of the last run with all its preparations."""

    def run(self, steps: int, theirs: TransformersTraining) -> None:
        """Take steps once; if the Trainer runs out of memory, halve its micro-batches for all later runs."""
        started = time.monotonic()
        try:
            self.runs.append(self.train(steps, self.others()))
        except torch.OutOfMemoryError:
            if self.name.startswith(OWN):
                raise
            self.has_failed = theirs.batch == 1
            theirs.batch = max(1, theirs.batch // 2)
            self.notes.append(f"{OUT_OF_MEMORY}, then micro-batches of {theirs.batch} samples")
        except Exception as error:  # the other ways go on
            self.has_failed = True
            self.notes.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.took_s = time.monotonic() - started

    def as_json(self) -> dict[str, Any]:
        """Return name, runs and notes."""
        return {"way": self.name, "runs": [asdict(run) for run in self.runs], "notes": self.notes}


@contextlib.contextmanager
def group_of_one() -> Iterator[torch.device]:
    """Join a process group of one process, and yield its device."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    # Only for the start: the Trainer would take these variables for a job of several processes.
    with set_variables(alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}):
        start_processes("torch")
    try:
        yield torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    finally:
        distributed.destroy_process_group()


def measure(
    shape: Shape, *, small: bool, steps: int, rounds: int, seconds: float, attention: str | None = None
) -> Iterator[dict[str, Any]]:
    """Run all ways in turn; yield the result after each run.

    Args:
        shape: Model and settings.
        small: Use a tiny model.
        steps: Timed steps of each run.
        rounds: Maximum number of runs of each way.
        seconds: Time for everything.
        attention: Attention of llava-av; None for that which training chooses.
    """
    deadline = time.monotonic() + seconds
    training = shape.training
    with group_of_one() as device:
        samples = _EPOCH * training.global_batch_size
        data = SampleData.draw(shape.base, samples, training.pack_length, small=small)
        own = OwnTraining(shape, data, device, attention)
        theirs = TransformersTraining(shape, data, device, own.work, _MICRO_BATCH)
        ways = [
            Way(OWN, own.loaded, theirs.nbytes),
            Way(f"{OWN}, batches in memory", own.ready, theirs.nbytes),
            Way("Trainer", theirs.padded, own.nbytes),
            Way("Trainer, grouped by length", theirs.grouped, own.nbytes),
            Way("Trainer, flattened", theirs.flattened, own.nbytes),
        ]
        about = {
            "attention": own.attention,
            "parameters": own.parameters,
            "pack_length": training.pack_length,
            "activation_checkpointing": training.activation_checkpointing,
            "peak_flops": _peak(training.precision),
        }
        for way in (way for _ in range(rounds) for way in ways):
            if time.monotonic() + way.took_s > deadline:
                return
            if not way.has_failed:
                way.run(steps, theirs)
                yield about | {"ways": [one.as_json() for one in ways]}


def _peak(precision: str) -> float | None:
    return peak_flops(torch.cuda.get_device_name(), precision) if torch.cuda.is_available() else None


def environment() -> dict[str, str]:
    """Return the device and the versions of what computes."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {platform.machine()}"
    packages = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": device, "python": platform.python_version(), **packages, "peft": peft.__version__}


def main() -> None:
    """Measure one model, and write a JSON file after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, required=True)
    parser.add_argument("--file", type=Path, required=True, help="file for the result")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--pack-length", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1, help="timed steps of each run")
    parser.add_argument("--attention", help="attention of llava-av")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations of all parts")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    changes: dict[str, Any] = {"global_batch_size": _SMALL_BATCH if arguments.small else _BATCH}
    if not arguments.checkpointing:
        changes["activation_checkpointing"] = ()
    shape = SHAPES[arguments.model].with_rows(arguments.pack_length, **changes)
    rounds, found = 1 if arguments.small else _ROUNDS, environment()
    results = measure(
        shape,
        small=arguments.small,
        steps=arguments.steps,
        rounds=rounds,
        seconds=arguments.seconds,
        attention=arguments.attention,
    )
    try:
        for result in results:
            found |= result
            arguments.file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    except torch.OutOfMemoryError:
        arguments.file.write_text(json.dumps(found | {"error": OUT_OF_MEMORY}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
