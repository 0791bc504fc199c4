"""The dry run's chain on a cluster: train, register, evaluate, promote; and a pod killed on the way.

`LLAVA_AV_TRAIN_IMAGE`, `LLAVA_AV_PIPELINE_IMAGE` and `LLAVA_AV_MLFLOW_IMAGE` name the images, best by digest.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from llava_av.checkpoints import latest_checkpoint
from llava_av.storage import ObjectStore
from tests.cluster.services import Services, image
from tests.commands import Command, llava_av

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

_TRAIN_S = 1500
# Long enough for a kill between two checkpoints.
SHORT = (
    "--set=data.demo_train_blocks=2",
    "--set=data.demo_held_out_blocks=1",
    "--set=training.steps=60",
    "--set=training.checkpoint_every_steps=10",
)


def _jobs(services: Services, **profile: str) -> list[str]:
    fields = {"image": image("train"), "namespace": services.namespace, **profile}
    return [f"--job={name}={value}" for name, value in fields.items()]


def _run_key(output: str) -> str:
    found = re.search(r"^run ([0-9a-f]{16})$", output, re.MULTILINE)
    assert found, output
    return found[1]


def _champion(services: Services) -> Any:
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        for name, value in services.credentials.items():
            patch.setenv(name, value)
        client = mlflow.MlflowClient(services.environment()["MLFLOW_TRACKING_URI"])
        return client.get_model_version_by_alias("dryrun", "champion")


def test_dry_run_trains_and_becomes_champion(services: Services, tmp_path: Path) -> None:
    environment, jobs = services.environment(), _jobs(services)
    out = ["--output-dir", str(tmp_path / "out")]

    def call(*arguments: str) -> str:
        code, output = llava_av([*arguments, *out], tmp_path, timeout_s=_TRAIN_S, environment=environment)
        assert code == 0, output
        return output

    run = _run_key(call("submit", "dryrun", *jobs))
    checkpoint = latest_checkpoint(services.store(), run)
    assert checkpoint is not None
    version = call("register", run).splitlines()[-1]
    call("evaluate", run, "--launcher", "kubernetes", *jobs)
    call("promote", run)
    call("report", run)
    champion = _champion(services)
    assert version == f"dryrun version {champion.version}"
    assert champion.source == checkpoint.uri
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000


def test_killed_pod_leads_to_the_digest_of_an_undisturbed_run(services: Services, tmp_path: Path) -> None:
    calm, _ = _train(services, "calm", tmp_path, killed=False)
    hit, output = _train(services, "hit", tmp_path, killed=True)
    assert "goes on from step" in output
    assert hit == calm


def _train(services: Services, bucket: str, folder: Path, *, killed: bool) -> tuple[str, str]:
    """Digest of the checkpoint that a short training leaves in a bucket of its own, and what was printed."""
    services.offer(bucket, bucket)
    store = services.store(bucket)
    store.ensure_bucket()
    jobs = _jobs(services, services_config_map=bucket)
    command = Command(
        ["submit", "quick", *SHORT, *jobs, "--output-dir", str(folder / bucket)],
        log=folder / f"{bucket}.log",
        environment=services.environment(),
    )
    if killed:
        command.wait_until(lambda: _steps(store) >= 10, _TRAIN_S)
        _kill_worker(services)
    assert command.wait(_TRAIN_S) == 0, command.output()
    train = store.get_json(f"runs/{_run_key(command.output())}/train.json")
    return train["checkpoint"]["digest"], command.output()


def _steps(store: ObjectStore) -> int:
    """Steps of the newest checkpoint in a bucket."""
    names = [info.key for info in store.list("checkpoints/")]
    steps = [re.search(r"/step-(\d+)/manifest\.json$", name) for name in names]
    return max((int(step[1]) for step in steps if step), default=0)


def _kill_worker(services: Services) -> None:
    pods = services.kubectl("-n", services.namespace, "get", "pods", "-o", "name").splitlines()
    running = [
        pod for pod in pods if re.search(r"training-.*-worker-1$", pod) and _phase(services, pod) == "Running"
    ]
    assert len(running) == 1, pods
    services.kubectl("-n", services.namespace, "delete", running[0], "--grace-period=0", "--force")


def _phase(services: Services, pod: str) -> str:
    return services.kubectl("-n", services.namespace, "get", pod, "-o", "jsonpath={.status.phase}")
