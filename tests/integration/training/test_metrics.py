"""Metrics of a training: its journal, Prometheus, MLflow and the profiler."""

import contextlib
import gzip
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client.samples import Sample

from llava_av.processes import PROFILE_FOLDER_VARIABLE, PROFILE_STEPS_VARIABLE
from llava_av.recipe import load_recipe
from llava_av.runs import Run, RunRequest
from llava_av.runs.names import METRICS
from llava_av.services.ports import free_ports
from llava_av.tracking.follower import JournalFollower
from llava_av.tracking.journal import Journal
from llava_av.tracking.mlflow_run import MlflowTracker
from tests.artifacts import sample
from tests.exporters import check_names, scraped
from tests.fault_proxy import ALWAYS, fault_proxy
from tests.integration.training.jobs import STEPS, Job, settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.mark.slow
def test_profiled_training_writes_a_trace_and_a_table_and_has_the_same_digest(
    job: Job, tmp_path: Path
) -> None:
    whole = job.trained(**settings("torch"))
    variables = {PROFILE_STEPS_VARIABLE: "3", PROFILE_FOLDER_VARIABLE: str(tmp_path)}
    profiled = job.train("profiled", environment=variables, **settings("torch"))
    assert profiled.digest == whole.digest
    table = (tmp_path / "table.txt").read_text()
    rows = {line[:20].strip(): float(line[20:].split()[0]) for line in table.splitlines()}
    parts = {"data wait", "forward", "backward", "optimizer", "metrics", "checkpoint", "other"}
    assert rows.keys() == parts | {"step", "incl. communication"}
    assert sum(rows[part] for part in parts) == pytest.approx(rows["step"], abs=0.1)
    assert all(rows[part] > 0 for part in ("forward", "backward", "optimizer", "metrics", "checkpoint"))
    assert rows["incl. communication"] > 0
    trace = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("optimizer") == 3
    for name in ("trace.json.gz", "table.txt"):
        assert job.store.get_bytes(f"runs/profiled/profile/{name}") == (tmp_path / name).read_bytes()


def test_prometheus_scrapes_a_resumed_job_whose_digest_is_the_same(job: Job) -> None:
    whole = job.trained(**settings("deepspeed"))
    [port] = free_ports(1)
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(job.resume, whole.run, metrics_port=port, **settings("deepspeed"))
        told = scrapes(port, until=training.done)
        resumed = training.result()
    assert resumed.digest == whole.digest
    labels = {"run": whole.run, "experiment": "test"}
    assert all(sample.labels == labels for scrape in told for sample in scrape)
    seen = [{sample.name: sample.value for sample in scrape} for scrape in told]
    steps = [values["llava_av_training_step"] for values in seen]
    assert steps == sorted(steps)
    assert 4 <= steps[-1] <= STEPS
    expected = {"steps_planned": STEPS, "restarts_total": 1, "resumed_step": 4}
    assert {name: seen[-1][f"llava_av_training_{name}"] for name in expected} == expected
    check_names("training", told[-1])


def test_every_step_has_all_metrics(job: Job) -> None:
    trained = job.trained(**settings("deepspeed"))
    assert trained.column("step") == list(range(STEPS))
    assert trained.result["mlflow_run_id"] is None
    expected = {"loss", "learning_rate", "grad_norm", "tokens_per_s", "memory_mib"}
    expected |= {"time_s", "step_s", "data_wait_s", "checkpoint_stall_s", "padding_share", "tflops_per_gpu"}
    expected |= {"tokens_per_s_per_gpu", "samples_per_s_per_gpu"}
    assert all(expected <= set(row) for row in trained.rows)
    assert all(0 <= row["data_wait_s"] <= row["step_s"] for row in trained.rows[1:])
    batch_size = load_recipe("quick").training.global_batch_size
    for row in trained.rows:
        assert row["samples_per_s_per_gpu"] * row["step_s"] * 2 == pytest.approx(batch_size)
        assert row["tokens_per_s_per_gpu"] * 2 == pytest.approx(row["tokens_per_s"])
        assert 0 <= row["padding_share"] < 1
        assert row["tflops_per_gpu"] > 0
    assert not any("mfu" in row for row in trained.rows), "a CPU has no peak"
    stalls = trained.column("checkpoint_stall_s")
    assert [step for step, stall in enumerate(stalls) if stall] == [4]
    # the first steps ask about tones and colours alone
    first = load_recipe("quick").training.warmup_kind_steps
    named = [
        {name for name in row if name.startswith(("loss/kind", "loss/modality"))} for row in trained.rows
    ]
    asked = ("kind/audio", "kind/visual", "modality/audio", "modality/video_audio")
    assert named[:first] == [{f"loss/{name}" for name in asked}] * first
    assert all("loss/kind/joint_colour" in names for names in named[first:])
    assert {"loss/visual", "loss/audio", "loss/joint"} <= {name for row in trained.rows for name in row}
    assert trained.rows[-1]["loss"] < trained.rows[0]["loss"]


def test_metrics_and_parameters_reach_mlflow_when_it_is_available(
    job: Job, mlflow_environment, monkeypatch
) -> None:
    from mlflow import MlflowClient

    from llava_av.tracking.mlflow_run import catch_up

    trained = job.trained(**settings("deepspeed"))
    for name, value in {**mlflow_environment, "LLAVA_AV_BUCKET": job.store.bucket}.items():
        monkeypatch.setenv(name, value)
    request = Run(store=job.store, id=trained.run).request()
    first = catch_up(request, trained.rows[:3])
    assert catch_up(request, trained.rows) == first
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    history = client.get_metric_history(first, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == list(
        enumerate(trained.column("loss"))
    )
    run = client.get_run(first)
    assert run.data.params["dataset_commit"] == job.commit.id
    assert run.data.params["training.global_batch_size"] == "16"
    assert run.info.status == "FINISHED"
    (logged,) = [one.dataset for one in run.inputs.dataset_inputs]
    assert (logged.name, logged.digest) == (request.dataset.name, job.commit.id[:36])
    commit = job.store.key(json.loads(logged.source)["uri"])
    assert json.loads(job.store.get_bytes(commit))["manifest"]
    earlier = client.create_run(run.info.experiment_id, tags={"llava_av.run": "earlier"}).info.run_id
    client.log_param(earlier, "training.samples_per_step", 16)
    assert catch_up(request.model_copy(update={"run": "earlier"}), trained.rows) == earlier
    assert client.get_run(earlier).data.params == {"training.samples_per_step": "16"}


def test_a_follower_logs_many_rows_with_many_metrics(mlflow_environment, monkeypatch, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    for name, value in mlflow_environment.items():
        monkeypatch.setenv(name, value)
    journal = Journal(tmp_path / METRICS)
    for step in range(70):
        journal.append({"step": step, "loss": step / 7} | {f"loss/kind/{kind}": 1.0 for kind in range(30)})
    followed = JournalFollower(
        MlflowTracker(sample(RunRequest).model_copy(update={"run": "followed"})), journal
    ).finish()
    assert followed is not None
    history = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_metric_history(followed, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(n, n / 7) for n in range(70)]


def test_artifacts_that_mlflow_refuses_do_not_end_training(
    job: Job, forks, demo, mlflow_environment, monkeypatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    from llava_av.tracking.mlflow_run import catch_up

    uri = mlflow_environment["MLFLOW_TRACKING_URI"]
    with fault_proxy(urlsplit(uri).netloc) as proxy:
        proxy.fail("no artifacts", ALWAYS)
        login = {
            name: value for name, value in mlflow_environment.items() if name.startswith("MLFLOW_TRACKING")
        }
        refused = Job({**job.environment, **login, "MLFLOW_TRACKING_URI": proxy.url}, demo, tmp_path, forks)
        trained = refused.train("refused", **settings("torch", processes=1))
    assert trained.result["mlflow_run_id"] is None
    assert trained.result["checkpoint"]["step"] == STEPS
    assert (tmp_path / "logs" / "refused.log").read_text().count("training continues") == 1
    for name, value in mlflow_environment.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'test'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`llava_av.run` = 'refused'")
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == STEPS
    request = Run(store=job.store, id="refused").request()
    assert catch_up(request, trained.rows) == run.info.run_id
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == STEPS
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["recipe.json"]


def scrapes(port: int, *, until: Callable[[], bool]) -> list[list[Sample]]:
    """Return the answers of the job to repeated requests, until it ends."""
    answers = []
    while not until():
        with contextlib.suppress(OSError):
            answers.append(scraped(f"http://127.0.0.1:{port}/metrics"))
    return answers
