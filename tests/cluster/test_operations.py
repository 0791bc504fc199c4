"""Tests of operating an installed chart: monitoring, backup, loss and restoration."""

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_av.checkpoints import CheckpointState, fetch_checkpoint, latest_checkpoint, write_checkpoint
from tests.cluster.conftest import Kubectl
from tests.cluster.services import RELEASE, Services, chart_values, helm, image, install
from tests.commands import Command
from tests.exporters import METRICS, check_names, scraped
from tests.unit.test_monitoring import expressions, metric_names

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

KEYS = {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}
SECURE = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
RUN = "0123456789abcdef"


def elsewhere() -> list[dict[str, Any]]:
    """Return the manifests of an S3 server outside the release and of the Secret with its keys."""
    user = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "minio",
        "image": "quay.io/minio/minio:latest",
        "imagePullPolicy": "IfNotPresent",
        "args": ["server", "--address", ":9000", "/data"],
        "env": [
            {"name": "MINIO_ROOT_USER", "value": KEYS["AWS_ACCESS_KEY_ID"]},
            {"name": "MINIO_ROOT_PASSWORD", "value": KEYS["AWS_SECRET_ACCESS_KEY"]},
        ],
        "readinessProbe": {"httpGet": {"path": "/minio/health/ready", "port": 9000}},
        "securityContext": SECURE,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    volumes = [{"name": name, "emptyDir": {"sizeLimit": "1Gi"}} for name in ("data", "tmp")]
    pod = {"securityContext": user, "containers": [container], "volumes": volumes}
    labels = {"app": "elsewhere"}
    ports = [{"port": 9000}]
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "backup-keys"}, "stringData": KEYS},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "elsewhere", "labels": labels}, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "elsewhere"},
            "spec": {"selector": labels, "ports": ports},
        },
    ]


@pytest.fixture(scope="module")
def values(kubectl: Kubectl, restricted_namespace: str) -> dict[str, Any]:
    manifests = json.dumps({"apiVersion": "v1", "kind": "List", "items": elsewhere()})
    kubectl("-n", restricted_namespace, "apply", "-f", "-", stdin=manifests)
    backup = {"endpoint": "http://elsewhere:9000", "bucket": "saved", "existingSecret": "backup-keys"}
    return {
        **chart_values(("mlflow", "pipeline")),
        "monitoring": {"enabled": True, "operator": False},
        "backup": {"enabled": True, **backup},
    }


class Operated:
    """The chart in a namespace, accessed at the addresses of its pods."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self.kubectl = kubectl
        self.namespace = namespace

    def __call__(self, *arguments: str, **options: Any) -> str:
        return self.kubectl("-n", self.namespace, *arguments, **options)

    @property
    def services(self) -> Services:
        return Services(kubectl=self.kubectl, namespace=self.namespace)

    def pod_address(self, selector: str) -> str:
        return self("get", "pods", "-l", selector, "-o", "jsonpath={.items[0].status.podIP}")

    def server(self, part: str) -> str:
        port = {"mlflow": 5000, "s3": 9000}[part]
        return f"http://{self.pod_address(f'app.kubernetes.io/component={part}')}:{port}"

    def run(self, cronjob: str) -> str:
        """Start a job of a CronJob, wait for its end, and return its log."""
        name = f"{cronjob}-{secrets.token_hex(3)}"
        self("create", "job", name, f"--from=cronjob/{RELEASE}-{cronjob}")
        deadline = time.monotonic() + 300
        while True:
            status = json.loads(self("get", "job", name, "-o", "json"))["status"]
            if status.get("succeeded") or status.get("failed"):
                break
            assert time.monotonic() < deadline, status
            time.sleep(1)
        said = self("logs", f"job/{name}", "--all-containers")
        assert status.get("succeeded"), said
        return said

    def mlflow(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        from mlflow import MlflowClient

        for name, value in self.services.credentials.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", self.server("mlflow"))
        return MlflowClient(self.server("mlflow"))


@pytest.fixture(scope="module")
def operated(kubectl: Kubectl, restricted_namespace: str, values: dict[str, Any]) -> Operated:
    install(restricted_namespace, values)
    return Operated(kubectl, restricted_namespace)


def used(prefix: str) -> set[str]:
    """Return the metric names with a prefix in alerts and dashboard."""
    names = {name for expression in expressions().values() for name in metric_names(expression)}
    return {name for name in names if name.startswith(prefix)}


def test_servers_answer_prometheus(operated: Operated) -> None:
    mlflow = scraped(f"http://{operated.pod_address('app.kubernetes.io/component=mlflow')}:9402/metrics")
    # The answer to the job that created the users is counted.
    check_names("mlflow", mlflow)
    assert [one.value for one in mlflow if one.name == "llava_av_mlflow_up"] == [1]
    storage = scraped(f"{operated.server('s3')}/minio/v2/metrics/cluster")
    assert used("minio_") <= {one.name for one in storage}


@pytest.fixture
def training(operated: Operated, tmp_path: Path) -> Iterator[Command]:
    fields = {"image": image("train"), "namespace": operated.namespace}
    jobs = [f"--job={name}={value}" for name, value in fields.items()]
    small = ("--set=data.demo_train_blocks=2", "--set=data.demo_held_out_blocks=1")
    arguments = ["submit", "dryrun", *small, *jobs, "--output-dir", str(tmp_path / "out")]
    command = Command(arguments, log=tmp_path / "log", environment=operated.services.environment())
    try:
        yield command
    finally:
        command.process.terminate()
        command.wait(120)


def test_a_job_answers_prometheus_while_it_trains(operated: Operated, training: Command) -> None:
    selector = "app.kubernetes.io/managed-by=llava-av,training.kubeflow.org/replica-index=0"
    told: dict[str, float] = {}

    def steps() -> bool:
        try:
            found = scraped(f"http://{operated.pod_address(selector)}:9401/metrics")
        except (AssertionError, OSError):
            return False  # no pod, address or process yet
        told.update({one.name: one.value for one in found})
        return told["llava_av_training_step"] > 0

    training.wait_until(steps, 600)
    # A CPU has no peak of FLOPs, and the recipe measures no held-out loss.
    absent = (METRICS / "training-optional.txt").read_text().split()
    assert used("llava_av_training_") - set(absent) <= set(told)
    assert told["llava_av_training_tokens_total"] > 0
    assert told["llava_av_training_restarts_total"] == 0


def test_a_backup_restores_everything_after_a_loss(
    operated: Operated, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(secrets.token_bytes(100_000))
    state = CheckpointState(digest="0" * 64, data_position={"step": 1})
    store = operated.services.store()
    reference = write_checkpoint(store, RUN, 1, {"model/weights": weights}, state, extra={})
    client = operated.mlflow(monkeypatch)
    run_id = client.create_run(client.create_experiment("saved")).info.run_id
    client.log_metric(run_id, "train/loss", 0.5, step=3)
    client.log_text(run_id, "kept", "note.txt")
    client.create_registered_model("saved")
    version = client.create_model_version("saved", source=reference.uri, run_id=run_id).version
    client.set_registered_model_alias("saved", "champion", version)

    assert re.search(r"\d{8}T\d{6}Z \(\d+ objects", operated.run("backup"))
    kept = kept_secrets(operated)
    helm("uninstall", RELEASE, "-n", operated.namespace, "--wait")
    eventually(lambda: not operated("get", "pvc", "-o", "name"))
    operated("apply", "-f", "-", stdin=kept)
    install(operated.namespace, values)
    assert not list(operated.services.store().list(f"checkpoints/{RUN}/"))

    assert "objects written" in operated.run("restore")
    operated("rollout", "restart", f"deployment/{RELEASE}-mlflow")
    operated("rollout", "status", f"deployment/{RELEASE}-mlflow", "--timeout=240s", timeout_s=270)
    store = operated.services.store()
    assert latest_checkpoint(store, RUN) == reference
    fetch_checkpoint(store, reference.uri, tmp_path / "back")
    assert (tmp_path / "back" / "model" / "weights").read_bytes() == weights.read_bytes()
    client = operated.mlflow(monkeypatch)
    champion = client.get_model_version_by_alias("saved", "champion")
    assert (champion.version, champion.source, champion.run_id) == (version, reference.uri, run_id)
    assert [metric.value for metric in client.get_metric_history(run_id, "train/loss")] == [0.5]
    # MLflow redirects artifact downloads to an S3 address that only resolves in the cluster.
    assert [store.get_bytes(one.key) for one in store.list("mlflow/") if one.key.endswith("/note.txt")] == [
        b"kept"
    ]


def kept_secrets(operated: Operated) -> str:
    """Return the chart's Secrets, saved as docs/helm.md describes."""
    names = [f"secret/{RELEASE}-{part}" for part in ("credentials", "servers")]
    listed = json.loads(operated("get", *names, "-o", "json"))
    for one in listed["items"]:
        for field in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
            one["metadata"].pop(field, None)
    return json.dumps(listed)


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the condition does not hold in time"
        time.sleep(1)
