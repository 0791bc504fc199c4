"""Benchmark of the time that training waits for a checkpoint: `python -m benchmarks.checkpoint_stall`.

One process trains a stack of linear layers with AdamW in float32 on the CPU; weights and moments have
`--gigabytes`. An embedded S3 server stores the checkpoints. In each round, training saves once and waits
until the checkpoint is complete, then saves once and continues with steps meanwhile, so both share the load
of the machine. The table has medians over the rounds: seconds that the loop waits, including the check for
finite values; seconds until the checkpoint is complete; seconds of a step alone and while a checkpoint is
written. The last lines show the wait as a share of 100 steps of one second. The first save is not counted.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed, nn

from llava_av.processes import set_variables
from llava_av.recipe import load_recipe
from llava_av.services.servers import ServerOptions, embedded_servers
from llava_av.services.state import StateLock
from llava_av.storage import ObjectStore
from llava_av.training.checkpointer import Checkpointer
from llava_av.training.engines.torch_engine import TorchEngine
from llava_av.training.finite_checks import require_finite_state

_STATE_BYTES = 12
"""Bytes of a weight and its two moments."""
_INTERVAL_S = 100.0


@dataclass
class Training:
    """A training whose state has so many bytes, and the seconds that were measured."""

    store: ObjectStore
    work: Path
    gigabytes: float
    width: int
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        recipe = load_recipe("quick").with_overrides(
            {
                "training.engine": "torch",
                "training.num_processes": 1,
                "training.keep_latest_checkpoints": 1,
            }
        )
        layers = max(1, round(self.gigabytes * 1e9 / _STATE_BYTES / self.width**2))
        torch.manual_seed(0)
        model: Any = nn.Sequential(*(nn.Linear(self.width, self.width) for _ in range(layers)))
        self.engine = TorchEngine(model, recipe)
        self.batch = torch.ones(1, self.width)
        self._take_step()
        self.bytes = sum(one.nbytes for part in self.engine.fragments() for one in part.tensors.values())
        nothing: Any = None
        self.checkpointer = Checkpointer(
            self.store, "benchmark", recipe, self.engine, model, nothing, self.work
        )
        self.steps = 1

    def step(self, column: str) -> None:
        """Take a step and record its seconds."""
        started = time.perf_counter()
        self._take_step()
        self._record(column, started)
        self.steps += 1

    def save(self, column: str, *, waiting: bool) -> None:
        """Save, and record how long the loop waits and how long it takes until the checkpoint is complete."""
        self.checkpointer.finish()
        self.step("step")
        started = time.perf_counter()
        require_finite_state(self.steps, self.engine.fragments(), (), 0.0)
        self.checkpointer.save(self.steps)
        if waiting:
            self.checkpointer.finish()
        self._record(f"{column} wait", started)
        while not waiting and self.checkpointer.stepped() is None:
            self.step("step while writing")
        self._record(f"{column} complete", started)

    def _take_step(self) -> None:
        self.engine.backward(self.engine.model(self.batch).square().mean(), last=True)
        self.engine.step(1e-5)

    def _record(self, column: str, started: float) -> None:
        self.seconds.setdefault(column, []).append(time.perf_counter() - started)


def measure(store: ObjectStore, work: Path, gigabytes: float, rounds: int, width: int) -> Training:
    """Alternate saves that wait with saves that do not."""
    training = Training(store, work, gigabytes, width)
    with training.checkpointer:
        training.save("first", waiting=True)
        for _ in range(rounds):
            training.save("synchronous", waiting=True)
            training.save("asynchronous", waiting=False)
        training.checkpointer.finish()
    return training


def report(seconds: Mapping[str, list[float]], size: int) -> Iterator[str]:
    """Yield the lines of the result."""
    yield f"state of {size / 1e9:.2f} GB, {len(seconds['synchronous wait'])} rounds"
    names = [f"{kind} {what}" for kind in ("synchronous", "asynchronous") for what in ("wait", "complete")]
    for name in (*names, "step", "step while writing"):
        if name in seconds:
            found = seconds[name]
            yield f"{name:24}{median(found):8.3f} s   ({min(found):.3f} to {max(found):.3f})"
    for kind in ("synchronous", "asynchronous"):
        waited = median(seconds[f"{kind} wait"])
        yield f"{kind}: {100 * waited / (_INTERVAL_S + waited):.2f} % of the time at one checkpoint in 100 s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of the training")
    parser.add_argument("--width", type=int, default=4096, help="width of a layer")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lock = StateLock(folder / "state", "benchmark")
        with embedded_servers(folder / "state", lock, ServerOptions(mlflow=False)) as running:
            with set_variables(running.addresses.environment(running.credentials)):
                store = ObjectStore.from_env()
            store.ensure_bucket()
            found = measure(store, folder / "work", options.gigabytes, options.rounds, options.width)
        lock.close()
    for line in report(found.seconds, found.bytes):
        print(line)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
