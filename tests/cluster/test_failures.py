"""Tests that no work is lost if a job's pod, the database, or all pods of the chart fail."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_av.checkpoints import fetch_checkpoint, latest_checkpoint
from llava_av.storage import ObjectStore
from llava_av.tracking.journal import parse_rows
from llava_av.workflows.runtime.failures import PIPELINE_RUN_VARIABLE
from tests.cluster.services import RELEASE, Services, run_id
from tests.commands import Command

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

TRAIN_S = 1500
OUTAGE_S = 120.0
# Long enough for a failure between two checkpoints.
SHORT = (
    "--set=data.demo_train_blocks=2",
    "--set=data.demo_held_out_blocks=1",
    "--set=training.steps=60",
    "--set=training.checkpoint_interval=10",
)


def train(
    services: Services, bucket: str, folder: Path, trouble: Callable[[], None] | None = None
) -> tuple[str, str]:
    """Train in a separate bucket and cause trouble after the first checkpoint; return run ID and output."""
    services.offer(bucket, bucket)
    store = services.store(bucket)
    store.ensure_bucket()
    jobs = services.job_options(services_config_map=bucket)
    command = Command(
        ["submit", "quick", *SHORT, *jobs, "--output-dir", str(folder / bucket)],
        log=folder / f"{bucket}.log",
        environment=services.environment(),
    )
    if trouble is not None:
        command.wait_until(lambda: steps(store) >= 10, TRAIN_S)
        trouble()
    assert command.wait(TRAIN_S) == 0, command.output()
    return run_id(command.output()), command.output()


def steps(store: ObjectStore) -> int:
    """Return the step of the newest checkpoint in a bucket."""
    names = [info.key for info in store.list("checkpoints/")]
    found = [re.search(r"/step-(\d+)/manifest\.json$", name) for name in names]
    return max((int(step[1]) for step in found if step), default=0)


def digest(services: Services, bucket: str, run: str) -> str:
    """Return the digest of the last checkpoint's state."""
    found: str = services.store(bucket).get_json(f"runs/{run}/train.json")["checkpoint"]["digest"]
    return found


@pytest.fixture(scope="module")
def calm(services: Services, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the final checkpoint of an undisturbed run."""
    run, _ = train(services, "calm", tmp_path_factory.mktemp("calm"))
    return digest(services, "calm", run)


def test_killed_pod_leads_to_the_digest_of_an_undisturbed_run(
    services: Services, calm: str, tmp_path: Path
) -> None:
    run, output = train(
        services, "hit", tmp_path, lambda: delete_worker(services, "--grace-period=0", "--force")
    )
    assert "resumes from step" in output
    assert digest(services, "hit", run) == calm


def test_pod_of_a_drained_node_leaves_a_checkpoint_of_its_last_step(
    services: Services, calm: str, tmp_path: Path
) -> None:
    run, output = train(services, "drained", tmp_path, lambda: delete_worker(services))
    [step] = set(re.findall(r"ended by SIGTERM after step (\d+) of 60", output))
    assert f"resumes from step {step}," in output
    assert digest(services, "drained", run) == calm


def delete_worker(services: Services, *options: str) -> None:
    """Delete the pod of rank one; unless the options say otherwise, it gets SIGTERM and its grace period."""
    pods = services.kubectl("-n", services.namespace, "get", "pods", "-o", "name").splitlines()
    running = [
        pod for pod in pods if re.search(r"training-.*-worker-1$", pod) and phase(services, pod) == "Running"
    ]
    assert len(running) == 1, pods
    services.kubectl("-n", services.namespace, "delete", running[0], *options)


def phase(services: Services, pod: str) -> str:
    return services.kubectl("-n", services.namespace, "get", pod, "-o", "jsonpath={.status.phase}")


def test_database_is_gone_for_two_minutes_of_training_and_registration(
    services: Services, calm: str, tmp_path: Path
) -> None:
    gone: list[float] = []

    def stop() -> None:
        scale(services, "postgresql", 0)
        gone.append(time.monotonic())

    run, _ = train(services, "outage", tmp_path, stop)
    assert digest(services, "outage", run) == calm
    environment = {**services.environment("outage"), PIPELINE_RUN_VARIABLE: "outage"}
    register = Command(
        ["register", run, "--output-dir", str(tmp_path / "out")],
        log=tmp_path / "register.log",
        environment=environment,
    )
    register.wait_until(lambda: "retrying in" in register.output(), OUTAGE_S)
    time.sleep(max(0.0, gone[0] + OUTAGE_S - time.monotonic()))
    scale(services, "postgresql", 1)
    assert register.wait(TRAIN_S) == 0, register.output()

    rows = parse_rows(services.store("outage").get_bytes(f"runs/{run}/metrics.jsonl").decode())
    with services.mlflow() as client:
        version = client.get_model_version("quick", "1")
        told = client.get_metric_history(version.run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in told) == [
        (row["step"], row["loss"]) for row in rows
    ]
    assert len(rows) == 60


def scale(services: Services, part: str, replicas: int) -> None:
    name = f"statefulset/{RELEASE}-{part}"
    services.kubectl("-n", services.namespace, "scale", name, f"--replicas={replicas}")
    services.kubectl("-n", services.namespace, "rollout", "status", name, "--timeout=240s", timeout_s=270)


def test_every_pod_is_killed_at_once_and_nothing_is_lost(services: Services, tmp_path: Path) -> None:
    with services.mlflow() as client:
        version = client.get_model_version("quick", "1")
        client.set_registered_model_alias("quick", "kept", version.version)
        told = client.get_metric_history(version.run_id, "train/loss")
    options = ("--all", "--grace-period=0", "--force")
    services.kubectl("-n", services.namespace, "delete", "pods", *options)
    for part in ("statefulset/{}-s3", "statefulset/{}-postgresql", "deployment/{}-mlflow"):
        name = part.format(RELEASE)
        services.kubectl("-n", services.namespace, "rollout", "status", name, "--timeout=240s", timeout_s=270)
    store = services.store("outage")
    with services.mlflow() as client:
        again = client.get_model_version_by_alias("quick", "kept")
        assert (again.version, again.source) == (version.version, version.source)
        assert client.get_metric_history(version.run_id, "train/loss") == told
    checkpoint = latest_checkpoint(store, version.source.split("/")[-2])
    assert checkpoint is not None
    fetch_checkpoint(store, checkpoint.uri, tmp_path / "got")
