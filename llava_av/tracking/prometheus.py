"""Metrics that a running job serves to Prometheus.

Only rank zero serves them: its metrics of a step already cover all processes, and one target per job avoids
double counting.
"""

import contextlib
import logging
import math
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

    def __init__(self, run: str, experiment: str, job: str) -> None:
        """Create an empty registry.

        Args:
            run: Run ID.
            experiment: ID of the run's experiment record; empty if there is none.
            job: Kind of the job, the prefix of metric names after `llava_av_`.
        """
        self.registry = CollectorRegistry()
        self._prefix = f"llava_av_{job}"
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
    """Progress, speed and checkpoints of a training job."""

    def __init__(self, request: RunRequest, *, restarts: int = 0) -> None:
        """Set the metrics that are known before the first step.

        Args:
            request: The request of the run.
            restarts: Number of earlier starts of this run's training.
        """
        super().__init__(request.run, request.experiment.id, "training")
        self._step = self._gauge("step", "Optimizer steps done")
        self._planned = self._gauge("steps_planned", "Optimizer steps of the recipe")
        self._step_time = self._gauge("step_timestamp_seconds", "Unix time of the last step, or of the start")
        self._loss = self._gauge("loss", "Mean loss per labelled token in the last step, in nats")
        self._learning_rate = self._gauge("learning_rate", "Learning rate of the last step")
        self._grad_norm = self._gauge("grad_norm", "Norm of the gradient before clipping in the last step")
        self._tokens_per_s = self._gauge(
            "tokens_per_second", "Tokens per second in the last step, over all processes"
        )
        self._samples_per_s = self._gauge(
            "samples_per_second", "Samples per second in the last step, over all processes"
        )
        self._padding = self._gauge("padding_ratio", "Share of padding in the positions of the last step")
        self._mfu: Gauge | None = None
        self._processes = request.recipe.training.num_processes
        self._tokens = self._counter("tokens", "Tokens trained on since this job started, over all processes")
        self._seconds = self._counter("step_seconds", "Seconds of all steps since this job started")
        self._waited = self._counter(
            "data_wait_seconds", "Seconds that the slowest rank waited for its loader"
        )
        self._stalled = self._counter("checkpoint_stall_seconds", "Seconds that steps waited for checkpoints")
        self._memory = self._gauge("memory_bytes", "Memory of all processes: peak on GPUs, resident on CPUs")
        self._saved = self._gauge("checkpoint_step", "Step of the last checkpoint; 0 without one")
        self._saved_time = self._gauge(
            "checkpoint_timestamp_seconds", "Unix time of this job's last checkpoint, or of its start"
        )
        self._resumed = self._gauge("resumed_step", "Step from which this job resumed; 0 for a fresh start")
        self._held_out = None
        if request.recipe.training.validation_interval is not None:
            self._held_out = self._gauge(
                "held_out_loss", "Latest mean loss per labelled token on held-out data, in nats"
            )
            self._held_out.set(math.nan)
        self._stage = None
        if request.recipe.stages:
            self._stage = self._gauge("stage", "Number of the stage that is being trained, from 1")
        self._counter("restarts", "Restarts of this run's training").inc(restarts)
        self._planned.set(request.recipe.training.steps)
        now = time.time()
        self._step_time.set(now)
        self._saved_time.set(now)

    def enter_stage(self, index: int) -> None:
        """Report the start of a stage, by its index from 0, in a training with stages."""
        if self._stage is not None:
            self._stage.set(index + 1)

    def resumed(self, step: int) -> None:
        """Report that training resumes from the checkpoint of `step`."""
        for gauge in (self._resumed, self._saved, self._step):
            gauge.set(step)

    def stepped(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report a finished step.

        Args:
            step: Index of the step, from 0.
            metrics: Metrics as the journal has them.
        """
        self._step.set(step + 1)
        self._step_time.set_to_current_time()
        # A step that is not finite has neither.
        self._loss.set(metrics.get("loss", math.nan))
        self._learning_rate.set(metrics["learning_rate"])
        self._grad_norm.set(metrics.get("grad_norm", math.nan))
        self._tokens_per_s.set(metrics["tokens_per_s"])
        self._tokens.inc(metrics["tokens_per_s"] * metrics["step_s"])
        self._seconds.inc(metrics["step_s"])
        self._waited.inc(metrics["data_wait_s"])
        self._stalled.inc(metrics["checkpoint_stall_s"])
        self._memory.set(metrics["memory_mib"] * 2**20)
        self._samples_per_s.set(metrics["samples_per_s_per_gpu"] * self._processes)
        self._padding.set(metrics["padding_share"])
        if "mfu" in metrics:
            # Created with its first value, because only some GPUs have a known peak.
            self._mfu = self._mfu or self._gauge(
                "model_flops_utilisation", "Model FLOPs of the last step, relative to the peak of its GPUs"
            )
            self._mfu.set(metrics["mfu"])
        if self._held_out is not None and "held_out/loss" in metrics:
            self._held_out.set(metrics["held_out/loss"])

    def saved(self, step: int) -> None:
        """Report that the checkpoint after `step` steps is complete."""
        self._saved.set(step)
        self._saved_time.set_to_current_time()


class EvaluationMetrics(JobMetrics):
    """Progress of rank zero in an evaluation; the other ranks' shares of the questions are equally large."""

    def __init__(self, run: str, experiment: str, *, planned: int) -> None:
        """Set the number of planned answers.

        Args:
            run: Run ID.
            experiment: See `JobMetrics`.
            planned: Answers of this process, over all questions and ablations.
        """
        super().__init__(run, experiment, "evaluation")
        self._gauge("answers_planned", "Answers planned for this process").set(planned)
        self._answers = self._counter("answers", "Answers scored since this process started")

    def answered(self, count: int) -> None:
        """Report further answers."""
        self._answers.inc(count)


@contextlib.contextmanager
def serve_metrics(metrics: JobMetrics) -> Iterator[None]:
    """Serve metrics at port LLAVA_AV_METRICS_PORT, if it is set, until the block ends.

    A port that cannot be used is only a warning, since jobs do not depend on their monitoring.
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
    """Start the server; log a warning and return None if the port cannot be used."""
    if not value.isdecimal() or int(value) not in _PORTS:
        _LOG.warning("%s=%r must be a port in 1..65535; no metrics are served", METRICS_PORT_VARIABLE, value)
        return None
    try:
        return start_http_server(int(value), registry=registry)[0]
    except OSError as error:
        _LOG.warning(
            "port %s cannot be used (%s): no metrics are served; set %s to a free port",
            value,
            error.strerror,
            METRICS_PORT_VARIABLE,
        )
        return None
