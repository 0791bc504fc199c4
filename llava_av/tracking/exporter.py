"""What a job tells Prometheus while it runs.

Only the first process answers: what it knows of a step is over all processes already, and one target a job
means that nothing is counted twice.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from llava_av.processes import METRICS_PORT_VARIABLE
from llava_av.runs import RunRequest

__all__ = ["EvaluationMetrics", "JobMetrics", "TrainingMetrics", "serve_metrics"]

_LOG = logging.getLogger(__name__)
_PORTS = range(1, 2**16)


class JobMetrics:
    """Metrics of one job, each with the labels `run` and `experiment`."""

    def __init__(self, run: str, experiment: str, stage: str) -> None:
        """Makes an empty registry.

        Args:
            run: run key.
            experiment: id of the run's experiment record; empty where there is none.
            stage: what the names begin with, after `llava_av_`.
        """
        self.registry = CollectorRegistry()
        self._prefix = f"llava_av_{stage}"
        self._labels = {"run": run, "experiment": experiment}

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(f"{self._prefix}_{name}", about, tuple(self._labels), registry=self.registry).labels(
            **self._labels
        )

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(f"{self._prefix}_{name}", about, tuple(self._labels), registry=self.registry).labels(
            **self._labels
        )


class TrainingMetrics(JobMetrics):
    """Where a training job is, how fast it goes, and how much of it is safe."""

    def __init__(self, request: RunRequest, *, restarts: int = 0) -> None:
        """Tells all that is known before the first step.

        Args:
            request: the run's request.json.
            restarts: how often this run's training was begun before.
        """
        super().__init__(request.run, request.experiment.id, "training")
        self._step = self._gauge("step", "Optimizer steps done")
        self._planned = self._gauge("steps_planned", "Optimizer steps that the recipe asks for")
        self._step_time = self._gauge("step_timestamp_seconds", "Unix time of the last step, or of the start")
        self._loss = self._gauge("loss", "Mean loss a labelled token in the last step, in nats")
        self._learning_rate = self._gauge("learning_rate", "Learning rate of the last step")
        self._grad_norm = self._gauge("grad_norm", "Norm of the gradient before clipping in the last step")
        self._tokens_per_s = self._gauge(
            "tokens_per_second", "Tokens a second in the last step, all processes"
        )
        self._tokens = self._counter("tokens", "Tokens trained on since this job began, over all processes")
        self._seconds = self._counter("step_seconds", "Seconds from step to step since this job began")
        self._waited = self._counter("data_wait_seconds", "Seconds in which the slowest loader had no batch")
        self._memory = self._gauge("memory_bytes", "Memory of all processes: peak on GPUs, else resident")
        self._saved = self._gauge("checkpoint_step", "Step of the last checkpoint; 0 without one")
        self._saved_time = self._gauge(
            "checkpoint_timestamp_seconds", "Unix time of this job's last checkpoint, or of its start"
        )
        self._resumed = self._gauge("resumed_step", "Step that this job went on from; 0 for one from scratch")
        self._counter("restarts", "How often training of this run was begun anew").inc(restarts)
        self._planned.set(request.recipe.training.steps)
        now = time.time()
        self._step_time.set(now)
        self._saved_time.set(now)

    def resumed(self, step: int) -> None:
        """Training goes on from the checkpoint of `step`."""
        for gauge in (self._resumed, self._saved, self._step):
            gauge.set(step)

    def stepped(self, step: int, metrics: Mapping[str, float]) -> None:
        """The step with index `step` is done.

        Args:
            step: counted from 0.
            metrics: as `Trainer.step` gives them.
        """
        self._step.set(step + 1)
        self._step_time.set_to_current_time()
        self._loss.set(metrics["loss"])
        self._learning_rate.set(metrics["learning_rate"])
        self._grad_norm.set(metrics["grad_norm"])
        self._tokens_per_s.set(metrics["tokens_per_s"])
        self._tokens.inc(metrics["tokens_per_s"] * metrics["step_s"])
        self._seconds.inc(metrics["step_s"])
        self._waited.inc(metrics["data_wait_s"])
        self._memory.set(metrics["memory_mib"] * 2**20)

    def saved(self, step: int) -> None:
        """The checkpoint after `step` steps is whole."""
        self._saved.set(step)
        self._saved_time.set_to_current_time()


class EvaluationMetrics(JobMetrics):
    """How many of its answers the process that is watched has; the shares of others are as long."""

    def __init__(self, run: str, experiment: str, *, planned: int) -> None:
        """Tells how many there will be.

        Args:
            run: run key.
            experiment: as of `JobMetrics`.
            planned: answers that the process asks for, of questions under all ablations.
        """
        super().__init__(run, experiment, "evaluation")
        self._gauge("answers_planned", "Answers that this process asks for").set(planned)
        self._answers = self._counter("answers", "Answers given and judged since this process began")

    def answered(self, count: int) -> None:
        """So many answers have come."""
        self._answers.inc(count)


@contextlib.contextmanager
def serve_metrics(metrics: JobMetrics) -> Iterator[None]:
    """Answers at the port that LLAVA_AV_METRICS_PORT names until the block ends, or never without one.

    A job does not depend on who watches it: a port that cannot be had is a warning.
    """
    value = os.environ.get(METRICS_PORT_VARIABLE, "")
    server = _start(value, metrics.registry) if value else None
    try:
        yield
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()


def _start(value: str, registry: CollectorRegistry) -> Any:
    """The server; None with a warning where there can be none."""
    if not value.isdecimal() or int(value) not in _PORTS:
        _LOG.warning("%s=%r is no port from 1 to 65535; no metrics are served", METRICS_PORT_VARIABLE, value)
        return None
    try:
        return start_http_server(int(value), registry=registry)[0]
    except OSError as error:
        _LOG.warning(
            "port %s cannot be had (%s): no metrics are served; set %s to a free one",
            value,
            error.strerror,
            METRICS_PORT_VARIABLE,
        )
        return None
