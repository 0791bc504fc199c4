"""Tests of the pipeline on Kubeflow Pipelines: success, reuse, failure, cancellation and resuming.

`KFP_ENDPOINT` is the backend, `KFP_NAMESPACE` the namespace of its steps (default: kubeflow). The chart binds
their ServiceAccount. See docs/kubeflow.md.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_av.launch import PIPELINE_LABEL, JobProfile
from llava_av.launch.kubernetes.pytorchjob import build_job
from tests.cluster.conftest import Kubectl
from tests.cluster.launcher.jobs import SMALL, python
from tests.cluster.services import ABSENT_IMAGE, Services, image
from tests.commands import Command, llava_av

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.kfp,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("KFP_ENDPOINT"), reason="KFP_ENDPOINT names no backend"),
]

KFP_NAMESPACE = os.environ.get("KFP_NAMESPACE", "kubeflow")
RUN_S = 900
# Two minutes of training on two cores, with a checkpoint every few seconds.
LONG = {
    "data.demo_train_blocks": 2,
    "data.demo_held_out_blocks": 1,
    "training.steps": 120,
    "training.checkpoint_interval": 10,
}


@pytest.fixture(scope="module")
def package(kubectl: Kubectl, services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Compile the pipeline, and give its steps the addresses and credentials of the services."""
    folder, name = tmp_path_factory.mktemp("pipeline"), services.namespace
    services.offer(name, "llava-av", to=KFP_NAMESPACE)
    services.offer_credentials(name, to=KFP_NAMESPACE)
    file = folder / "pipeline.yaml"
    images = ["--image", image("pipeline"), "--train-image", image("train")]
    names = ["--services-config-map", name, "--credentials-secret", name]
    code, output = llava_av(["pipeline", "compile", str(file), *images, *names], folder, timeout_s=120)
    assert code == 0, output
    yield file
    kubectl("-n", KFP_NAMESPACE, "delete", "configmap,secret", name)


@pytest.fixture
def run(package: Path, services: Services, tmp_path: Path) -> Callable[..., Command]:
    """Return a function that starts a run and follows it."""

    def start(name: str, job: dict[str, Any] | None = None, **parameters: Any) -> Command:
        given = {"recipe": "quick", "gate": False, **parameters}
        # With the backend and its steps, a small node has less than one free core.
        given["job"] = {"namespace": services.namespace, "cpu": "250m", **(job or {})}
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
        options = [word for key, text in texts.items() for word in ("-p", f"{key}={text}")]
        return Command(
            ["pipeline", "run", str(package), *options, "--name", name],
            log=tmp_path / f"{name}.log",
            environment={"KFP_ENDPOINT": os.environ["KFP_ENDPOINT"]},
        )

    return start


def run_id(command: Command) -> str:
    command.wait_until(lambda: "\nrun " in f"\n{command.output()}", 120)
    found = re.search(r"^run (\S+) of version", command.output(), re.MULTILINE)
    assert found, command.output()
    return found[1]


def client() -> Any:
    import kfp

    return kfp.Client(os.environ["KFP_ENDPOINT"])


def jobs_and_pods(kubectl: Kubectl, services: Services) -> list[str]:
    """Return the unfinished jobs in the namespace and the pods of jobs."""
    listed = json.loads(kubectl("-n", services.namespace, "get", "pytorchjobs", "-o", "json"))["items"]
    ends = ("Succeeded", "Failed")
    running = [
        str(job["metadata"]["name"])
        for job in listed
        if not any(
            condition["type"] in ends and condition["status"] == "True"
            for condition in job.get("status", {}).get("conditions", [])
        )
    ]
    pods = kubectl(
        *("-n", services.namespace, "get", "pods", "-o", "name"),
        *("-l", "training.kubeflow.org/job-name", "--field-selector", "status.phase=Running"),
    )
    return running + pods.split()


def test_a_run_succeeds_and_the_next_one_reuses_it(run: Callable[..., Command], services: Services) -> None:
    first = run("first")
    assert first.wait(RUN_S) == 0, first.output()
    assert "train        running" in first.output()
    [key] = {info.key.split("/")[1] for info in services.store().list("runs/")}
    registered = services.store().get_json(f"runs/{key}/register.json")
    assert registered["lineage"]["environment"]["image"] == image("train")
    assert "torch" in registered["lineage"]["environment"]["packages"]

    second = run("second")
    assert second.wait(RUN_S) == 0, second.output()
    states = dict(re.findall(r"^(\w+) +(\w+)$", second.output(), re.MULTILINE))
    assert set(states.values()) == {"succeeded"}
    # Reused steps never ran.
    running = set(re.findall(r"^(\w+) +running$", second.output(), re.MULTILINE))
    assert "data" in running
    assert not {"train", "evaluate"} & running
    assert services.store().get_json(f"runs/{key}/register.json")["version"] == registered["version"]


@pytest.mark.parametrize(
    ("name", "change", "cause"),
    [
        ("no-image", {"job": {"image": ABSENT_IMAGE}}, "the registry has no such image"),
        (
            "no-secret",
            {"job": {"credentials_secret": "absent"}},
            "Secret 'absent' does not exist",
        ),
        ("no-recipe", {"recipe": "absent"}, "no recipe 'absent'; give the path of a YAML file or one of:"),
        (
            "too-many-gpus",
            {"gpus": 32, "overrides": {"training.global_batch_size": 64}, "job": {"patience_s": 15}},
            "Insufficient nvidia.com/gpu",
        ),
    ],
)
def test_a_failed_step_says_why(
    run: Callable[..., Command],
    services: Services,
    kubectl: Kubectl,
    name: str,
    change: dict[str, Any],
    cause: str,
) -> None:
    # A new seed, because a run of another test would be reused.
    change = {**change, "overrides": {"seed": 11, **change.get("overrides", {})}}
    command = run(name, **change)
    assert command.wait(RUN_S) == 1, command.output()
    failed = f"pipelines/{run_id(command)}/failed/"
    kept = [services.store().get_json(info.key) for info in services.store().list(failed)]
    assert [cause in one["cause"] for one in kept] == [True], kept
    # The summary of the run's last step, which users read, has it too.
    assert cause in summary_of(kubectl, command)
    assert jobs_and_pods(kubectl, services) == []


def summary_of(kubectl: Kubectl, command: Command) -> str:
    """Return the log of the cleanup step, the only one with the artifact `summary` and an error."""
    label = f"pipeline/runid={run_id(command)}"
    pods = kubectl("-n", KFP_NAMESPACE, "get", "pods", "-l", label, "-o", "name").split()
    logs = [kubectl("-n", KFP_NAMESPACE, "logs", pod, "-c", "main", check=False) for pod in pods]
    [log] = [log for log in logs if '"summary"' in log and "error: " in log]
    return log


def test_a_cancelled_run_leaves_no_job_and_the_next_one_resumes(
    run: Callable[..., Command], services: Services, kubectl: Kubectl, tmp_path: Path
) -> None:
    store = services.store()
    before = {info.key for info in store.list("checkpoints/")}

    def trains() -> bool:
        names = {info.key for info in store.list("checkpoints/")} - before
        return any(name.endswith("/manifest.json") for name in names)

    cancelled = run("cancelled", overrides=LONG)
    cancelled.wait_until(trains, RUN_S)
    client().terminate_run(run_id(cancelled))
    until = time.monotonic() + 60
    while left := jobs_and_pods(kubectl, services):
        assert time.monotonic() < until, f"not deleted after a minute: {left}"
        time.sleep(1)
    assert cancelled.wait(RUN_S) == 1, cancelled.output()

    again = run("again", overrides=LONG)
    assert again.wait(RUN_S) == 0, again.output()
    [key] = {name.split("/")[1] for name in ({i.key for i in store.list("checkpoints/")} - before)}
    assert store.get_json(f"runs/{key}/train.json")["resumed_from"] >= 10


def test_a_lost_step_continues_in_another_pod(
    run: Callable[..., Command], services: Services, kubectl: Kubectl
) -> None:
    command = run("lost", overrides={**LONG, "seed": 3})
    label = f"pipeline/runid={run_id(command)}"

    def steps_pods() -> list[str]:
        """Return the pods of steps that follow a job."""
        pods = kubectl("-n", KFP_NAMESPACE, "get", "pods", "-l", label, "-o", "name").split()
        logs = {pod: kubectl("-n", KFP_NAMESPACE, "logs", pod, "-c", "main", check=False) for pod in pods}
        return [pod for pod, log in logs.items() if "PyTorchJob" in log]

    command.wait_until(lambda: bool(steps_pods()), RUN_S)
    [pod] = steps_pods()
    kubectl("-n", KFP_NAMESPACE, "delete", pod, "--wait=false")
    assert command.wait(RUN_S) == 0, command.output()


def test_a_schedule_is_replaced_and_its_run_continues(
    package: Path, services: Services, tmp_path: Path
) -> None:
    def schedule(cron: str) -> str:
        job = json.dumps({"namespace": services.namespace, "cpu": "250m"})
        chosen = ("-p", "recipe=quick", "-p", "gate=false", "-p", f"job={job}", "--name", services.namespace)
        arguments = ["pipeline", "schedule", str(package), "--cron", cron, *chosen]
        environment = {"KFP_ENDPOINT": os.environ["KFP_ENDPOINT"]}
        code, output = llava_av(arguments, tmp_path, timeout_s=120, environment=environment)
        assert code == 0, output
        return output.split()[-1]

    def runs_of(recurring: str) -> list[Any]:
        listed = client().list_runs(page_size=100, sort_by="created_at desc").runs or []
        return [run for run in listed if run.recurring_run_id == recurring]

    first = schedule("*/10 * * * * *")
    until = time.monotonic() + 120
    while not (started := runs_of(first)):
        assert time.monotonic() < until, "no run has started"
        time.sleep(2)
    second = schedule("0 0 0 1 1 *")
    assert client().get_recurring_run(first).status == "DISABLED"
    assert client().wait_for_run_completion(started[-1].run_id, RUN_S).state == "SUCCEEDED"
    third = schedule("0 0 0 1 1 *")
    listed = client().list_recurring_runs(page_size=100).recurring_runs
    assert {one.recurring_run_id for one in listed} & {first, second, third} == {third}
    client().delete_recurring_run(third)


def test_orphaned_jobs_are_deleted(services: Services, kubectl: Kubectl, tmp_path: Path) -> None:
    # An orphaned job, as after the loss of a node: no launcher follows it, and the backend has no such run.
    profile = JobProfile.model_validate({**SMALL, "image": image("train"), "namespace": services.namespace})
    job = build_job(python("left", "import time; time.sleep(600)"), profile, labels={PIPELINE_LABEL: "gone"})
    kubectl("create", "-f", "-", stdin=json.dumps(job))
    arguments = ["pipeline", "delete-orphans", "--namespace", services.namespace]
    environment = {"KFP_ENDPOINT": os.environ["KFP_ENDPOINT"], "KUBECONFIG": os.environ["KUBECONFIG"]}
    code, output = llava_av(arguments, tmp_path, timeout_s=120, environment=environment)
    assert (code, output.split()) == (0, [job["metadata"]["name"]])
    until = time.monotonic() + 60
    while left := jobs_and_pods(kubectl, services):
        assert time.monotonic() < until, f"not deleted after a minute: {left}"
        time.sleep(1)
