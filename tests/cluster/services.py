"""MinIO, PostgreSQL and MLflow in a namespace of the cluster, and how this machine reaches them."""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from llava_av.storage import ObjectStore

STACK = Path(__file__).parent / "stack"
# In the registry of the images under test: of a registry that does not answer one waits for the answer.
ABSENT_IMAGE = f"{os.environ.get('LLAVA_AV_TRAIN_IMAGE', 'llava-av-train').partition('@')[0]}-absent:1"
_READY_S = 300


def image(target: str) -> str:
    """The image under test; without one the test is skipped."""
    variable = f"LLAVA_AV_{target.upper()}_IMAGE"
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no image")
    return os.environ[variable]


@dataclass(frozen=True, kw_only=True)
class Services:
    """Services in one namespace; jobs find them by `llava-av-services` and `llava-av-credentials`."""

    kubectl: Callable[..., str]
    """The fixture `kubectl`."""
    namespace: str
    access_key: str
    secret_key: str

    def environment(self, bucket: str = "llava-av") -> dict[str, str]:
        """The variables by which commands on this machine find them."""
        return {
            "AWS_ENDPOINT_URL_S3": f"http://{self._address('minio')}:9000",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "LLAVA_AV_BUCKET": bucket,
            "MLFLOW_TRACKING_URI": f"http://{self._address('mlflow')}:5000",
            "KUBECONFIG": os.environ["KUBECONFIG"],
        }

    def store(self, bucket: str = "llava-av") -> ObjectStore:
        """The object store as this machine sees it."""
        return ObjectStore.from_env(self.environment(bucket))

    def offer(self, name: str, bucket: str, *, to: str | None = None) -> None:
        """Make the config map by which pods find the services, with a bucket of their own.

        Args:
            name: Name of the config map.
            bucket: Name of the bucket.
            to: The pods' namespace; the services' own if None.
        """
        values = {
            "AWS_ENDPOINT_URL_S3": f"http://minio.{self.namespace}:9000",
            "AWS_REGION": "us-east-1",
            "LLAVA_AV_BUCKET": bucket,
            "MLFLOW_TRACKING_URI": f"http://mlflow.{self.namespace}:5000",
        }
        self._make({"kind": "ConfigMap", "metadata": {"name": name}, "data": values}, to)

    def offer_credentials(self, name: str, *, to: str | None = None) -> None:
        """Make the Secret with which pods may use the services."""
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        self._make({"kind": "Secret", "metadata": {"name": name}, "stringData": keys}, to)

    def start(self, mlflow_image: str) -> None:
        """Start all of them and wait until they are ready."""
        self.offer_credentials("llava-av-credentials")
        password = {"password": secrets.token_hex(16)}
        self._make({"kind": "Secret", "metadata": {"name": "postgresql"}, "stringData": password})
        self.offer("llava-av-services", "llava-av")
        manifests = self.kubectl("kustomize", str(STACK))
        self._apply(manifests.replace("image: llava-av-mlflow", f"image: {mlflow_image}"))
        for name in ("minio", "postgresql", "mlflow"):
            wait = ("rollout", "status", f"deployment/{name}", f"--timeout={_READY_S}s")
            # kubectl says what it waited for, if it gives up first.
            self.kubectl("-n", self.namespace, *wait, timeout_s=_READY_S + 30)
        self.store().ensure_bucket()  # MLflow's artifacts go there, too

    def _address(self, service: str) -> str:
        return self.kubectl(
            "-n", self.namespace, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}"
        )

    def _make(self, manifest: Mapping[str, object], namespace: str | None = None) -> None:
        self._apply(json.dumps({"apiVersion": "v1", **manifest}), namespace)

    def _apply(self, manifests: str, namespace: str | None = None) -> None:
        self.kubectl("-n", namespace or self.namespace, "apply", "-f", "-", stdin=manifests)
