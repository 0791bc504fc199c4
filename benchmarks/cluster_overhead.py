"""Benchmark of the time that a cluster adds to training and evaluation, from `submit` to a registered model.

    QUICK=1 make kind-dryrun     # brings the images to the node, commits the dataset
    k8s/kind/with .venv/bin/python benchmarks/cluster_overhead.py

The program divides one run of the quick recipe into phases, by timestamps of commands, pods, logs and S3
objects. Pods report whole seconds, so each phase, and the sum, is accurate to a second. All clocks must be
synchronized.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from minio import Minio

NAMESPACE = os.environ.get("NAMESPACE", "llava-av")
DATASET = "demo-2x1-seed0"
# One checkpoint, at the end: an earlier one would count as training. torchrun logs its phases at INFO.
SUBMIT = ("--set=training.checkpoint_interval=8", "--job=environment={LOGLEVEL: INFO}")
TRAINING, EVALUATION = "training", "evaluation, with copies of data and model"

PhaseEnds = Iterator[tuple[str, float]]
"""Phases and the times of their ends, in seconds since the epoch."""


@dataclass(frozen=True)
class FinishedCommand:
    """A command that has succeeded."""

    began: float
    ended: float
    lines: tuple[tuple[float, str], ...]
    """Each output line with the time at which it was printed."""

    def when(self, pattern: str) -> tuple[float, str]:
        """Return the time and the first group of the first matching line."""
        found = next((at, match) for at, text in self.lines if (match := re.search(pattern, text)))
        return found[0], found[1][1]


def llava_av(*arguments: str) -> FinishedCommand:
    began, lines = time.time(), []
    command = [sys.executable, "-u", "-m", "llava_av", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.time(), line.rstrip()))
    ended = time.time()
    if process.returncode:
        raise SystemExit("\n".join(text for _, text in lines))
    return FinishedCommand(began, ended, tuple(lines))


def kubectl(*arguments: str) -> str:
    done = subprocess.run(
        ["kubectl", "-n", NAMESPACE, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


class Pod:
    """A pod of a job, running or finished."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pod = json.loads(kubectl("get", "pod", name, "-o", "json"))

    @property
    def created(self) -> float:
        return _instant(self._pod["metadata"]["creationTimestamp"])

    @property
    def scheduled(self) -> float:
        conditions = {one["type"]: one for one in self._pod["status"]["conditions"]}
        return _instant(conditions["PodScheduled"]["lastTransitionTime"])

    def ran(self, kind: str) -> tuple[float, float]:
        """Return when the first container, or first `init` container, started and ended."""
        state: dict[str, Any] = self._pod["status"][f"{kind}Statuses"][0]["state"]["terminated"]
        return _instant(state["startedAt"]), _instant(state["finishedAt"])

    def logged(self, text: str) -> float:
        """Return when the log first contained a text."""
        log = kubectl("logs", self.name, "--timestamps", "-c", "pytorch").splitlines()
        return _instant(next(line for line in log if text in line).partition(" ")[0])


def _instant(text: str) -> float:
    # Logs have nanoseconds, which datetime does not parse.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()


class RunObjects:
    """The objects of a run in S3 and their times."""

    def __init__(self, run: str) -> None:
        endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL_S3"])
        self._bucket = os.environ["LLAVA_AV_BUCKET"]
        keys = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        self._client = Minio(endpoint.netloc, *keys, secure=endpoint.scheme == "https")
        self._times: dict[str, float] = {}
        for prefix in (f"runs/{run}/", f"checkpoints/{run}/"):
            for found in self._client.list_objects(self._bucket, prefix, recursive=True):
                assert found.object_name is not None
                assert found.last_modified is not None
                self._times[found.object_name.removeprefix(prefix)] = found.last_modified.timestamp()
        self._run = run

    def written(self, ending: str) -> float:
        return next(at for name, at in self._times.items() if name.endswith(ending))

    def began(self, name: str) -> float:
        """Return when the job that wrote this object began, from the duration in the object."""
        return self.written(name) - float(json.loads(self._text(name))["seconds"])

    def last_step_s(self) -> float:
        """Return the seconds from the start of the first step to the end of the last."""
        return float(json.loads(self._text("metrics.jsonl").splitlines()[-1])["time_s"])

    def _text(self, name: str) -> str:
        return self._client.get_object(self._bucket, f"runs/{self._run}/{name}").data.decode()


def training(ran: FinishedCommand, job: str, run: str) -> PhaseEnds:
    leader, other, left = Pod(f"{job}-worker-0"), Pod(f"{job}-worker-1"), RunObjects(run)
    opening, container = leader.ran("initContainer"), leader.ran("container")
    yield "`submit` starts; the API server has the job", ran.when("created PyTorchJob.*()")[0]
    yield from _pod(leader)
    yield "the first container starts", opening[0]
    yield "it finds the dataset and opens the run: Python, imports, S3", opening[1]
    yield "the training container starts", container[0]
    yield "torchrun: Python, imports", leader.logged("Starting elastic_operator")
    yield "rendezvous of the two pods", leader.logged("Starting worker group")
    yield "the ranks: Python, imports of PyTorch and DeepSpeed", left.began("train.json")
    stepping = left.written("metrics.jsonl") - left.last_step_s()
    yield "process group, checkout of the dataset, model, engine", stepping
    yield TRAINING, left.written("metrics.jsonl")
    yield "the checkpoint is in S3", left.written("manifest.json")
    yield "MLflow has all metrics, the result is in S3", left.written("train.json")
    yield "processes and containers exit", max(container[1], other.ran("container")[1])
    yield "`submit` notices and exits", ran.ended


def evaluation(ran: FinishedCommand, job: str, run: str) -> PhaseEnds:
    pod, left = Pod(f"{job}-master-0"), RunObjects(run)
    started, ended = pod.ran("container")
    yield "`evaluate` starts; the API server has the job", ran.when("created PyTorchJob.*()")[0]
    yield from _pod(pod)
    yield "the container starts", started
    yield "Python, imports", left.began("evaluation.json")
    yield EVALUATION, left.written("evaluation.json")
    yield "the container exits", ended
    yield "`evaluate` notices and exits", ran.ended


def _pod(pod: Pod) -> PhaseEnds:
    yield "the training operator creates the pods", pod.created
    yield "scheduling", pod.scheduled


def table(began: float, ends: PhaseEnds) -> float:
    """Print the duration of each phase; return the sum of all except training and evaluation."""
    overhead, before = 0.0, began
    for name, end in ends:
        # With clocks of different resolution, a phase can seem to end before it began.
        took, before = max(0.0, end - before), max(before, end)
        own = name in (TRAINING, EVALUATION)
        overhead += 0.0 if own else took
        print(f"| {name} | {f'({took:.1f})' if own else f'{took:.1f}'} |")
    return overhead


def main(folder: str, seed: int) -> None:
    image = kubectl("get", "configmap", "llava-av-images", "-o", "jsonpath={.data.train}")
    common = ("--output-dir", folder)
    jobs = (f"--job=image={image}", f"--job=namespace={NAMESPACE}", *common)
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    submitted = llava_av("submit", "quick", "--dataset", DATASET, "--seed", str(seed), *SUBMIT, *jobs)
    run = submitted.when(r"^run ([0-9a-f]{16})$")[1]
    registered = llava_av("register", run, *common)
    evaluated = llava_av("evaluate", run, "--launcher", "kubernetes", *jobs)
    print(f"load after: {os.getloadavg()[0]:.1f}\n\n| Phase | s |\n| --- | --- |")
    job = submitted.when(r"created PyTorchJob .*/(.*)")[1]
    overhead = table(submitted.began, training(submitted, job, run))
    overhead += table(registered.began, iter([("`register`: Python, imports, MLflow", registered.ended)]))
    print(f"| **from submit to the registered model** | **{overhead:.1f}** |")
    job = evaluated.when(r"created PyTorchJob .*/(.*)")[1]
    overhead += table(evaluated.began, evaluation(evaluated, job, run))
    print(f"| **with the evaluation job** | **{overhead:.1f}** |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        # A new seed makes a new run.
        main(scratch, seed=int(time.time()))
