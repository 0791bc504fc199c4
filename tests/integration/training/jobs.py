"""Training jobs over one dataset in one store, and what they leave."""

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest

from llava_av.checkpoints import CheckpointFile
from llava_av.checkpoints.shard_index import state_root
from llava_av.datasets import packs
from llava_av.datasets.commits import Commit
from llava_av.datasets.committing import commit_dataset
from llava_av.launch import JobSpec, Launcher, LocalLauncher
from llava_av.processes import METRICS_PORT_VARIABLE, set_variables
from llava_av.provenance.source_code import code_digest
from llava_av.recipe import load_recipe
from llava_av.recipe.renaming import first_names
from llava_av.services.ports import free_ports
from llava_av.storage import ObjectStore
from llava_av.tracking.journal import parse_rows
from tests.forked_group import ForkedLauncher, ForkServer

STEPS = 6


class Trained:
    """A finished training job and what it left."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self.run = run
        self.result: dict[str, Any] = store.get_json(f"runs/{run}/train.json")
        self.rows = parse_rows(store.get_bytes(f"runs/{run}/metrics.jsonl").decode())

    @property
    def digest(self) -> str:
        """Of the last checkpoint's state."""
        return self.result["checkpoint"]["digest"]

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]


class Job:
    """Runs training jobs over one dataset in one store; with `forks`, torchrun starts what asks for it."""

    def __init__(
        self, environment: Mapping[str, str], demo: Any, folder: Path, forks: ForkServer | None = None
    ) -> None:
        self.environment = dict(environment)
        self.store = ObjectStore.from_env(self.environment)
        self.store.ensure_bucket()
        self.folder = folder
        self.forks = forks
        self.known: dict[str, Trained] = {}
        root, splits = demo
        with pytest.MonkeyPatch.context() as patch:
            # A test deletes the blob of a single file.
            patch.setattr(packs, "_FEWEST", 10_000)
            self.commit = commit_dataset(self.store, "demo", root, splits, ())

    def open(
        self, run: str, *, earlier_names: bool = False, further: Sequence[Commit] = (), **overrides: Any
    ) -> int:
        """Put the run's request, as this version or an earlier one does; gives its number of processes."""
        changed = {name.replace("__", "."): value for name, value in overrides.items()}
        steps = {} if "stages" in changed else {"training.steps": STEPS}
        recipe = load_recipe("quick").with_overrides(steps | changed)
        content = recipe.model_dump(mode="json")
        request = {
            "run": run,
            "recipe": first_names(content) if earlier_names else content,
            "dataset": {"name": self.commit.name, "commit": self.commit.id},
            "further_datasets": [{"name": one.name, "commit": one.id} for one in further],
            "experiment": {"id": "test", "sha256": "0" * 64},
        }
        git = {"commit": None, "dirty": False, "patch_sha256": None, "note": "a test"}
        self.store.put_json(f"runs/{run}/code.json", {"digest": code_digest(), "git": git})
        self.store.put_json(f"runs/{run}/request.json", request)
        return recipe.training.num_processes

    def trained(self, **overrides: Any) -> Trained:
        """Return the result of a job with these settings, trained once for several tests."""
        run = "-".join(["trained", *(str(value) for value in overrides.values())])
        if run not in self.known:
            self.known[run] = self.train(run, **overrides)
        return self.known[run]

    def resume(self, run: str, **options: Any) -> Trained:
        """Train the same run again, from the checkpoint before its last one."""
        self.forget_the_end(run)
        return self.train(run, **options)

    def copy_forged(self, source: str, run: str, name: str, content: bytes) -> None:
        """Give a run the last checkpoint of another, with one file, its hash and the digest replaced."""
        folder = f"step-{STEPS:08}"
        manifest = self.store.get_json(f"checkpoints/{source}/{folder}/manifest.json")
        for file in manifest["files"]:
            data = content if file == name else self.store.get_bytes(f"checkpoints/{source}/{folder}/{file}")
            self.store.put_bytes(f"checkpoints/{run}/{folder}/{file}", data)
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        files = {file: CheckpointFile(**entry) for file, entry in manifest["files"].items()}
        manifest["digest"] = state_root(files, manifest["data_position"])
        self.store.put_json(f"checkpoints/{run}/{folder}/manifest.json", manifest)

    def forget_the_end(self, run: str) -> None:
        """Leave the bucket as a job does that is killed in its last steps."""
        self.store.delete(f"checkpoints/{run}/step-{STEPS:08}/manifest.json")
        self.store.delete(f"runs/{run}/train.json")

    def train(
        self,
        run: str,
        *,
        by_torchrun: bool = False,
        metrics_port: int | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        **overrides: Any,
    ) -> Trained:
        self.launch(
            run, by_torchrun=by_torchrun, metrics_port=metrics_port, environment=environment, **overrides
        )
        return Trained(self.store, run)

    def launch(
        self,
        run: str,
        *,
        arguments: Sequence[str] = (),
        module: str = "llava_av.training",
        by_torchrun: bool = False,
        metrics_port: int | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        **overrides: Any,
    ) -> None:
        """Run a training job to its end, which may leave the run unfinished."""
        port = {} if metrics_port is None else {METRICS_PORT_VARIABLE: str(metrics_port)}
        spec = JobSpec(
            name=run,
            module=module,
            arguments=("--run", run, "--work", str(self.folder / "work" / run), *arguments),
            processes=self.open(run, **overrides),
        )
        with set_variables({**self.environment, **port, **environment}):
            self._launcher(by_torchrun).run(spec)

    def evaluate(self, run: str) -> None:
        """Evaluate the last checkpoint of a run on the held-out split."""
        arguments = ("--run", run, "--work", str(self.folder / "work" / run))
        spec = JobSpec(
            name=f"{run}-evaluation", module="llava_av.evaluation", arguments=arguments, processes=2
        )
        with set_variables(self.environment):
            self._launcher(by_torchrun=False).run(spec)

    def _launcher(self, by_torchrun: bool) -> Launcher:
        logs = self.folder / "logs"
        forked = self.forks is not None and not by_torchrun
        return ForkedLauncher(self.forks, logs) if forked else LocalLauncher(logs)

    def train_on_nodes(self, run: str, nodes: int, **overrides: Any) -> Trained:
        """Train with one process on each node, each with its own disk."""
        assert self.open(run, **overrides) == nodes
        group = [f"--nnodes={nodes}", "--nproc-per-node=1", f"--rdzv-id={run}", "--rdzv-backend=c10d"]
        group += [f"--rdzv-endpoint=127.0.0.1:{free_ports(1)[0]}", "--local-addr=127.0.0.1"]
        settings = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment = {**os.environ, **settings, **self.environment}
        with contextlib.ExitStack() as stack:
            started = []
            for node in range(nodes):
                work = self.folder / f"disk-{node}"
                job = ["-m", "--", "llava_av.training", "--run", run, "--work", str(work)]
                command = [sys.executable, "-m", "torch.distributed.run", *group, *job]
                process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
                stack.callback(process.kill)
                started.append(process)
            for process in started:
                errors = process.communicate(timeout=300)[1]
                assert process.returncode == 0, errors
        return Trained(self.store, run)


def settings(engine: str, *, processes: int = 2, stage: int = 2) -> dict[str, Any]:
    names = ("training__engine", "training__num_processes", "training__zero_stage")
    return dict(zip(names, (engine, processes, stage), strict=True))


def until(reached: Callable[[], bool], deadline_s: float = 240) -> None:
    end = time.monotonic() + deadline_s
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_rank(process: psutil.Process, rank: int, run: str = "stopped") -> bool:
    try:
        variables = process.environ()
        return variables.get("RANK") == str(rank) and run in process.cmdline()
    except psutil.Error:
        return False
