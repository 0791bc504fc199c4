"""Metrics that a job exports to Prometheus, over a real port."""

import logging
import math
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from llava_av.processes import METRICS_PORT_VARIABLE
from llava_av.recipe import load_recipe
from llava_av.runs import RunRequest
from llava_av.services.ports import free_ports
from llava_av.tracking.prometheus import EvaluationMetrics, TrainingMetrics, serve_metrics
from tests.artifacts import sample
from tests.exporters import METRICS, check_names, scraped

RECIPE = load_recipe("quick").with_overrides({"training.steps": 40}).model_dump(mode="json")
REQUEST = sample(RunRequest, run="0123456789abcdef", experiment={"id": "0001-test"}, recipe=RECIPE)
STEP = {
    "loss": 2.5,
    "learning_rate": 1e-3,
    "grad_norm": 0.7,
    "tokens_per_s": 100.0,
    "step_s": 0.5,
    "data_wait_s": 0.125,
    "checkpoint_stall_s": 0.0625,
    "memory_mib": 3.0,
    "samples_per_s_per_gpu": 8.0,
    "padding_share": 0.25,
}


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    port = free_ports(1)[0]
    monkeypatch.setenv(METRICS_PORT_VARIABLE, str(port))
    return port


def scrape(port: int) -> dict[str, float]:
    """Value by name; each sample has the labels of the run."""
    samples = scraped(f"http://127.0.0.1:{port}/metrics")
    assert all(one.labels == {"run": REQUEST.run, "experiment": "0001-test"} for one in samples)
    return {sample.name.removeprefix("llava_av_"): sample.value for sample in samples}


def test_held_out_loss_is_served_if_the_recipe_measures_it(port: int) -> None:
    recipe = load_recipe("quick").with_overrides({"training.validation_interval": 5}).model_dump(mode="json")
    request = sample(RunRequest, run=REQUEST.run, experiment={"id": "0001-test"}, recipe=recipe)
    metrics = TrainingMetrics(request)
    with serve_metrics(metrics):
        assert math.isnan(scrape(port)["training_held_out_loss"])
        metrics.stepped(4, STEP | {"held_out/loss": 1.25})
        metrics.stepped(5, STEP)
        assert scrape(port)["training_held_out_loss"] == 1.25


def test_a_training_with_stages_exports_the_current_one(port: int) -> None:
    stages = [{"name": name, "steps": 2} for name in ("align", "joint")]
    recipe = load_recipe("quick").with_overrides({"stages": stages}).model_dump(mode="json")
    metrics = TrainingMetrics(
        sample(RunRequest, run=REQUEST.run, experiment={"id": "0001-test"}, recipe=recipe)
    )
    with serve_metrics(metrics):
        for index in range(2):
            metrics.enter_stage(index)
            assert scrape(port)["training_stage"] == index + 1
    plain = TrainingMetrics(REQUEST)
    plain.enter_stage(0)
    with serve_metrics(plain):
        assert "training_stage" not in scrape(port)


def test_steps_are_told_as_they_are_made(port: int) -> None:
    metrics = TrainingMetrics(REQUEST, restarts=2)
    with serve_metrics(metrics):
        before = scrape(port)
        assert (before["training_step"], before["training_steps_planned"]) == (0, 40)
        metrics.resumed(7)
        assert [scrape(port)[f"training_{name}"] for name in ("step", "checkpoint_step")] == [7, 7]
        for step in (7, 8):
            metrics.stepped(step, STEP)
        metrics.saved(9)
        after = scrape(port)
    expected = {
        "step": 9,
        "loss": 2.5,
        "learning_rate": 1e-3,
        "grad_norm": 0.7,
        "tokens_per_second": 100,
        "tokens_total": 100,
        "step_seconds_total": 1,
        "data_wait_seconds_total": 0.25,
        "checkpoint_stall_seconds_total": 0.125,
        "memory_bytes": 3 * 2**20,
        "samples_per_second": 16,
        "padding_ratio": 0.25,
        "checkpoint_step": 9,
        "resumed_step": 7,
        "restarts_total": 2,
    }
    assert {name: after[f"training_{name}"] for name in expected} == expected
    assert "training_model_flops_utilisation" not in after
    for name in ("step", "checkpoint"):
        assert after[f"training_{name}_timestamp_seconds"] > before[f"training_{name}_timestamp_seconds"]


def test_a_step_that_is_not_finite_has_no_loss(port: int) -> None:
    metrics = TrainingMetrics(REQUEST)
    with serve_metrics(metrics):
        metrics.stepped(0, {name: value for name, value in STEP.items() if name not in ("loss", "grad_norm")})
        assert all(math.isnan(scrape(port)[f"training_{name}"]) for name in ("loss", "grad_norm"))


def test_utilisation_is_exported_where_it_is_known(port: int) -> None:
    metrics = TrainingMetrics(REQUEST)
    with serve_metrics(metrics):
        for share in (0.4, 0.5):
            metrics.stepped(0, STEP | {"mfu": share})
        assert scrape(port)["training_model_flops_utilisation"] == 0.5


def test_names_that_only_some_jobs_export_are_recorded(port: int) -> None:
    changes = {"training.validation_interval": 5, "stages": [{"name": "joint", "steps": 2}]}
    recipe = load_recipe("quick").with_overrides(changes).model_dump(mode="json")
    metrics = TrainingMetrics(sample(RunRequest, recipe=recipe))
    with serve_metrics(metrics):
        metrics.stepped(4, STEP | {"held_out/loss": 1.25, "mfu": 0.4})
        every = scraped(f"http://127.0.0.1:{port}/metrics")
    common = (METRICS / "training.txt").read_text().split()
    check_names("training-optional", [one for one in every if one.name not in common])


def test_answers_are_counted_as_they_come(port: int) -> None:
    metrics = EvaluationMetrics("0123456789abcdef", "0001-test", planned=3)
    with serve_metrics(metrics):
        metrics.answered(1)
        assert scrape(port)["evaluation_answers_total"] == 1
        metrics.answered(1)
        told = scrape(port)
    assert (told["evaluation_answers_total"], told["evaluation_answers_planned"]) == (2, 3)


def test_nothing_listens_without_a_port_or_after_the_job(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = TrainingMetrics(REQUEST)
    with serve_metrics(metrics):
        scrape(port)
    monkeypatch.delenv(METRICS_PORT_VARIABLE)
    with serve_metrics(metrics), pytest.raises(OSError, match="refused"):
        scrape(port)


@pytest.mark.parametrize("value", ["0", "65536", "many", "-1"])
def test_a_port_that_is_none_is_one_warning(
    value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(METRICS_PORT_VARIABLE, value)
    with serve_metrics(TrainingMetrics(REQUEST)):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        f"LLAVA_AV_METRICS_PORT={value!r} must be a port in 1..65535; no metrics are served"
    ]


def test_a_port_in_use_is_one_warning(port: int, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[Any] = []
    with socket.create_server(("0.0.0.0", port)), serve_metrics(TrainingMetrics(REQUEST)):
        ran.append("job")
    assert ran == ["job"]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"port {port} cannot be used (Address already in use)")
