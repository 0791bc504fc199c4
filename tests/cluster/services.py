"""The chart's services in a namespace of the cluster, and access to them from this machine."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest

from llava_av.storage import ObjectStore
from tests.commands import ROOT

CHART = ROOT / "helm" / "llava-av"
RELEASE = "llava-av"
# In the registry of the images under test, which answers; others could time out.
ABSENT_IMAGE = f"{os.environ.get('LLAVA_AV_TRAIN_IMAGE', 'llava-av-train').partition('@')[0]}-absent:1"
READY_S = 480


def image(target: str) -> str:
    """Return the image under test, or skip the test without one."""
    variable = f"LLAVA_AV_{target.upper()}_IMAGE"
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no image")
    return os.environ[variable]


def run_id(output: str) -> str:
    """Return the run ID that a command printed."""
    found = re.search(r"^run ([0-9a-f]{16})$", output, re.MULTILINE)
    assert found, output
    return found[1]


def helm(*arguments: str, stdin: str = "", check: bool = True, program: str = "helm") -> str:
    """Run helm and return its output, or skip the test without helm."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not on the PATH")
    done = subprocess.run(
        [program, *arguments], input=stdin, capture_output=True, text=True, timeout=READY_S + 120
    )
    assert not check or done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr[-2000:]}"
    return done.stdout + done.stderr


def chart_values(targets: tuple[str, ...] = ("mlflow", "pipeline", "train")) -> dict[str, Any]:
    """Return values in addition to the profile `kind`: the images under test and access for tests."""
    return {
        "images": {target: {"repository": image(target), "tag": ""} for target in targets},
        # Tests connect to the Service's address and use separate buckets.
        "mlflow": {"allowedHosts": ["10.*", "192.168.*"]},
        "s3": {"extraBuckets": ["calm", "hit", "drained", "outage", "based"]},
    }


def install(
    namespace: str, values: Mapping[str, object], *, program: str = "helm", wait_for_pods: bool = True
) -> str:
    """Install or upgrade the chart with the profile `kind`, and wait until everything is ready."""
    wait = ("--wait", "--wait-for-jobs", f"--timeout={READY_S}s") if wait_for_pods else ()
    profile = ("-f", str(CHART / "ci" / "kind-values.yaml"))
    command = ("upgrade", "--install", RELEASE, str(CHART), "-n", namespace, *profile, "-f", "-")
    return helm(*command, *wait, stdin=json.dumps(values), program=program)


@dataclass(frozen=True, kw_only=True)
class Services:
    """The chart's services in a namespace, with `llava-av-services` and `llava-av-credentials` for steps."""

    kubectl: Callable[..., str]
    """The fixture `kubectl`."""
    namespace: str

    @cached_property
    def credentials(self) -> dict[str, str]:
        """Credentials that steps get as variables."""
        return self.secret("llava-av-credentials")

    def secret(self, name: str) -> dict[str, str]:
        """Return the values of a Secret."""
        return {key: base64.b64decode(value).decode() for key, value in self._read("secret", name).items()}

    def address(self, part: str) -> str:
        """Return the address of a Service of the release."""
        name = f"{RELEASE}-{part}"
        return self.kubectl("-n", self.namespace, "get", "service", name, "-o", "jsonpath={.spec.clusterIP}")

    def environment(self, bucket: str = "llava-av") -> dict[str, str]:
        """Return the variables with which commands on this machine reach the services."""
        return {
            **self.credentials,
            "AWS_ENDPOINT_URL_S3": f"http://{self.address('s3')}:9000",
            "LLAVA_AV_BUCKET": bucket,
            "MLFLOW_TRACKING_URI": f"http://{self.address('mlflow')}:5000",
            "KUBECONFIG": os.environ["KUBECONFIG"],
        }

    def store(self, bucket: str = "llava-av") -> ObjectStore:
        """Return the object store, reached from this machine."""
        return ObjectStore.from_env(self.environment(bucket))

    def job_options(self, **profile: str) -> list[str]:
        """Return options for jobs in the services' namespace with the training image under test."""
        fields = {"image": image("train"), "namespace": self.namespace, **profile}
        return [f"--job={name}={value}" for name, value in fields.items()]

    @contextmanager
    def mlflow(self) -> Iterator[Any]:
        """Yield an MLflow client."""
        from mlflow import MlflowClient

        environment = self.environment()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
                patch.setenv(name, environment[name])
            yield MlflowClient(environment["MLFLOW_TRACKING_URI"])

    def offer(self, name: str, bucket: str, *, to: str | None = None) -> None:
        """Create a ConfigMap with the addresses of the services and another bucket.

        Args:
            name: Name of the config map.
            bucket: Name of the bucket.
            to: The pods' namespace; the services' own if None.
        """
        values = {**self._read("configmap", "llava-av-services"), "LLAVA_AV_BUCKET": bucket}
        self._make({"kind": "ConfigMap", "metadata": {"name": name}, "data": values}, to)

    def offer_credentials(self, name: str, *, to: str) -> None:
        """Create a Secret with which pods of another namespace use the services."""
        self._make({"kind": "Secret", "metadata": {"name": name}, "stringData": self.credentials}, to)

    def _read(self, kind: str, name: str) -> dict[str, str]:
        found = self.kubectl("-n", self.namespace, "get", kind, name, "-o", "json")
        data: dict[str, str] = json.loads(found)["data"]
        return data

    def _make(self, manifest: Mapping[str, object], namespace: str | None) -> None:
        text = json.dumps({"apiVersion": "v1", **manifest})
        self.kubectl("-n", namespace or self.namespace, "apply", "-f", "-", stdin=text)
