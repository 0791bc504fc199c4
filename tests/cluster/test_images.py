"""Tests of each image in a pod with restricted security, a read-only root file system and user ID 1000.

`LLAVA_AV_TRAIN_IMAGE`, `LLAVA_AV_PIPELINE_IMAGE` and `LLAVA_AV_MLFLOW_IMAGE` name the images, best by digest.
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

Kubectl = Callable[..., str]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# Pulling a training image can take minutes on a slow disk.
ENDS_WITHIN_S = 600
SERVES_WITHIN_S = 600

READ_ONLY = """
import _imp, importlib.util, os, shutil
from pathlib import Path
assert os.getuid() == 1000, os.getuid()
for folder in ("/app", "/opt/venv", "/"):
    try:
        open(f"{folder}/written", "w")
    except OSError:
        continue
    raise SystemExit(f"{folder} can be written")
assert not [name for name in ("cc", "gcc", "nvcc") if shutil.which(name)]
# Python does not check unchecked bytecode against its source, so this test does.
for source in Path("/app").rglob("*.py"):
    compiled = Path(importlib.util.cache_from_source(str(source))).read_bytes()
    assert compiled[8:16] == _imp.source_hash(importlib.util._RAW_MAGIC_NUMBER, source.read_bytes()), source
"""

REDUCE = """
import importlib.util, os, torch, deepspeed
from torch import distributed
assert importlib.util.find_spec("kfp") is None
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.init_distributed("gloo")
rank = distributed.get_rank()
value = torch.tensor([rank + 1.0])
distributed.all_reduce(value)
assert value.item() == 3.0, value
import llava_av.training.job, llava_av.evaluation.runner
os.write(1, f"reduced {rank}\\n".encode())  # one write: two processes share the pipe
distributed.destroy_process_group()
"""

DATA = """
import importlib.util
from pathlib import Path
assert importlib.util.find_spec("torch") is None
import kfp, kubeflow.training, kubernetes, matplotlib.pyplot
import pipelines.components, pipelines.pipeline
import llava_av.report, llava_av.workflows.evaluate, llava_av.workflows.open_run, llava_av.workflows.promote
import llava_av.workflows.register, llava_av.workflows.report, llava_av.workflows.train
from llava_av.datasets.demo import make_demo
from llava_av.recipe import load_recipe
print("recipe", load_recipe("dryrun").name)
made = make_demo(Path("/work/demo"), seed=0, train_blocks=1, held_out_blocks=0)
figure = matplotlib.pyplot.figure()
figure.savefig("/work/figure.svg")
print("clips", len(list(Path("/work/demo/clips").glob("*.mp4"))), "samples", len(made["train"]))
"""

COMPONENT = """
from kfp import dsl
def step(word: str, metrics: dsl.Output[dsl.Metrics]) -> str:
    from llava_av.workflows.runtime.workspace import step_process
    metrics.log_metric("length", len(word))
    return word.upper()
"""

HEALTH = """
import urllib.request
print(urllib.request.urlopen("http://localhost:5000/health", timeout=5).read().decode())
"""

AUTHENTICATED = """
import base64, json, urllib.error, urllib.request
def status(headers):
    body = json.dumps({"max_results": 1}).encode()
    address = "http://localhost:5000/api/2.0/mlflow/experiments/search"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json", **headers})
    try:
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code
known = base64.b64encode(b"admin:only for this test").decode()
print(status({}), status({"Authorization": f"Basic {known}"}))
"""


def image(target: str) -> str:
    variable = f"LLAVA_AV_{target.upper()}_IMAGE"
    named = os.environ.get(variable)
    if not named:
        pytest.skip(f"{variable} names no image; docs/images.md describes how to build and push one")
    return named


def pod(name: str, target: str, **container: Any) -> dict[str, Any]:
    """Return a pod with one container and only the writable volumes that an image needs."""
    folders = {"tmp": "/tmp", "work": "/work", "shm": "/dev/shm"}
    main = {
        "name": "main",
        "image": image(target),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": key, "mountPath": path} for key, path in folders.items()],
        **container,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [main],
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
                {"name": "work", "emptyDir": {"sizeLimit": "1Gi"}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
            ],
        },
    }


def output_of(kubectl: Kubectl, namespace: str, wanted: dict[str, Any]) -> str:
    """Return the output of a pod, which must succeed within a deadline."""
    name = wanted["metadata"]["name"]
    kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(wanted))
    deadline = time.monotonic() + ENDS_WITHIN_S
    while (phase := phase_of(kubectl, namespace, name)) not in {"Succeeded", "Failed"}:
        assert time.monotonic() < deadline, kubectl("describe", "pod", name, "-n", namespace)
        time.sleep(1)
    printed = kubectl("logs", name, "-n", namespace)
    assert phase == "Succeeded", printed
    return printed


def phase_of(kubectl: Kubectl, namespace: str, name: str) -> str:
    return kubectl("get", "pod", name, "-n", namespace, "-o", "jsonpath={.status.phase}")


def served(kubectl: Kubectl, namespace: str, wanted: dict[str, Any]) -> str:
    """Start a pod of the MLflow image, wait until its server is healthy, and return its name."""
    name = str(wanted["metadata"]["name"])
    kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(wanted))
    deadline = time.monotonic() + SERVES_WITHIN_S
    while kubectl("exec", "-n", namespace, name, "--", "python3", "-c", HEALTH, check=False).strip() != "OK":
        assert phase_of(kubectl, namespace, name) != "Failed", kubectl("logs", name, "-n", namespace)
        assert time.monotonic() < deadline, kubectl("describe", "pod", name, "-n", namespace)
        time.sleep(2)
    return name


@pytest.mark.parametrize("target", ["train", "pipeline"])
def test_it_prints_its_commit(kubectl: Kubectl, restricted_namespace: str, target: str) -> None:
    printed = output_of(kubectl, restricted_namespace, pod(f"version-{target}", target, args=["--version"]))
    assert printed.startswith("llava-av ")
    assert " (git " in printed


@pytest.mark.parametrize("target", ["train", "pipeline", "mlflow"])
def test_it_has_no_permissions_and_no_compiler(
    kubectl: Kubectl, restricted_namespace: str, target: str
) -> None:
    output_of(
        kubectl, restricted_namespace, pod(f"rights-{target}", target, command=["python3", "-c", READ_ONLY])
    )


def test_two_processes_of_the_training_image_reduce_a_tensor(
    kubectl: Kubectl, restricted_namespace: str
) -> None:
    start = 'printf %s "$0" >/work/reduce.py && exec torchrun --standalone --nproc-per-node 2 /work/reduce.py'
    environment = [{"name": "DS_ACCELERATOR", "value": "cpu"}, {"name": "OMP_NUM_THREADS", "value": "1"}]
    printed = output_of(
        kubectl,
        restricted_namespace,
        pod("reduce", "train", command=["sh", "-c", start, REDUCE], env=environment),
    )
    assert {line.split()[1] for line in printed.splitlines() if line.startswith("reduced ")} == {"0", "1"}


def test_the_pipeline_image_generates_the_demonstration(kubectl: Kubectl, restricted_namespace: str) -> None:
    printed = output_of(
        kubectl, restricted_namespace, pod("data", "pipeline", command=["python3", "-c", DATA])
    )
    assert "recipe dryrun" in printed
    assert "clips 16 samples 96" in printed  # six questions for each clip


def test_the_pipeline_image_runs_a_component_as_kubeflow_does(
    kubectl: Kubectl, restricted_namespace: str
) -> None:
    given = {
        "inputs": {"parameterValues": {"word": "ready"}},
        "outputs": {
            "parameters": {"Output": {"outputFile": "/tmp/outputs/word"}},
            "artifacts": {
                "metrics": {
                    "artifacts": [
                        {
                            "name": "metrics",
                            "type": {"schemaTitle": "system.Metrics"},
                            "uri": "/tmp/outputs/m",
                            "metadata": {},
                        }
                    ]
                }
            },
            "outputFile": "/tmp/outputs/executor.json",
        },
    }
    start = (
        'printf %s "$0" >/tmp/component.py && python3 -m kfp.dsl.executor_main '
        '--component_module_path /tmp/component.py --executor_input "$1" --function_to_execute step '
        "&& cat /tmp/outputs/executor.json"
    )
    printed = output_of(
        kubectl,
        restricted_namespace,
        pod("component", "pipeline", command=["sh", "-c", start, COMPONENT, json.dumps(given)]),
    )
    seen = json.loads(printed.splitlines()[-1])
    assert seen["parameterValues"] == {"Output": "READY"}
    assert seen["artifacts"]["metrics"]["artifacts"][0]["metadata"] == {"length": 5}


def test_the_mlflow_image_serves_on_sqlite_and_has_clients_of_postgresql_and_s3(
    kubectl: Kubectl, restricted_namespace: str
) -> None:
    name = served(kubectl, restricted_namespace, pod("mlflow", "mlflow"))
    kubectl("exec", "-n", restricted_namespace, name, "--", "python3", "-c", "import psycopg2, boto3")
    kubectl("delete", "pod", "-n", restricted_namespace, name, "--wait=false")


def test_the_mlflow_image_requires_authentication(kubectl: Kubectl, restricted_namespace: str) -> None:
    environment = {
        "MLFLOW_AUTH_ADMIN_PASSWORD": "only for this test",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for this test",
    }
    wanted = pod(
        "mlflow-auth",
        "mlflow",
        args=["server", "--app-name", "basic-auth", "--host", "0.0.0.0", "--port", "5000"],
        env=[{"name": key, "value": value} for key, value in environment.items()],
    )
    name = served(kubectl, restricted_namespace, wanted)
    seen = kubectl("exec", "-n", restricted_namespace, name, "--", "python3", "-c", AUTHENTICATED)
    assert seen.split() == ["401", "200"]
