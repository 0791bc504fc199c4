"""MinIO, PostgreSQL and MLflow in a namespace of the cluster, and how this machine reaches them."""

import json
import os
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_av.storage import ObjectStore

STACK = Path(__file__).parent / "stack"
_READY_S = 300


@dataclass(frozen=True, kw_only=True)
class Services:
    """Services in one namespace; jobs find them by `llava-av-services` and `llava-av-credentials`."""

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

    def offer(self, name: str, bucket: str) -> None:
        """Make the config map by which jobs find the services, with a bucket of their own."""
        values = {
            "AWS_ENDPOINT_URL_S3": "http://minio:9000",
            "AWS_REGION": "us-east-1",
            "LLAVA_AV_BUCKET": bucket,
            "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        }
        self._apply({"kind": "ConfigMap", "metadata": {"name": name}, "data": values})

    def start(self, mlflow_image: str) -> None:
        """Start all of them and wait until they are ready."""
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        for name, values in (
            ("llava-av-credentials", keys),
            ("postgresql", {"password": secrets.token_hex(16)}),
        ):
            self._apply({"kind": "Secret", "metadata": {"name": name}, "stringData": values})
        self.offer("llava-av-services", "llava-av")
        manifests = kubectl(["kustomize", str(STACK)]).replace(
            "image: llava-av-mlflow", f"image: {mlflow_image}"
        )
        kubectl(["-n", self.namespace, "apply", "-f", "-"], manifests)
        for name in ("minio", "postgresql", "mlflow"):
            kubectl(
                ["-n", self.namespace, "rollout", "status", f"deployment/{name}", f"--timeout={_READY_S}s"]
            )
        self.store().ensure_bucket()  # MLflow's artifacts go there, too

    def _address(self, service: str) -> str:
        return kubectl(["-n", self.namespace, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])

    def _apply(self, manifest: Mapping[str, object]) -> None:
        kubectl(["-n", self.namespace, "apply", "-f", "-"], json.dumps({"apiVersion": "v1", **manifest}))


def kubectl(arguments: list[str], text: str | None = None) -> str:
    """What kubectl prints; an error fails the test with what it said."""
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
