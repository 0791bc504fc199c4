"""Addresses of embedded servers, as environment variables."""

import os
from dataclasses import dataclass

from llava_av.services.ports import LOOPBACK
from llava_av.services.state import Credentials
from llava_av.storage.store_settings import DEFAULT_REGION, StoreSettings

__all__ = ["EMBEDDED_VARIABLE", "Addresses", "mlflow_login"]

EMBEDDED_VARIABLE = "LLAVA_AV_EMBEDDED"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """URLs of running servers and the bucket; `mlflow` is None if only the object store runs."""

    s3: str
    mlflow: str | None
    bucket: str

    def environment(self, credentials: Credentials) -> dict[str, str]:
        """Return the variables by which clients find these servers."""
        # Requests to loopback addresses must not go through the user's proxy.
        direct = {
            name: ",".join(filter(None, (os.environ.get(name), f"{LOOPBACK},localhost")))
            for name in ("NO_PROXY", "no_proxy")
        }
        variables = {
            "AWS_ENDPOINT_URL_S3": self.s3,
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_REGION": DEFAULT_REGION,
            "LLAVA_AV_BUCKET": self.bucket,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            EMBEDDED_VARIABLE: "yes",
            **direct,
        }
        if self.mlflow is None:
            return variables
        return {**variables, "MLFLOW_TRACKING_URI": self.mlflow, **mlflow_login(credentials)}

    def store_settings(self, credentials: Credentials) -> StoreSettings:
        """Return the settings of an `ObjectStore`."""
        return StoreSettings(
            endpoint=self.s3,
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
            bucket=self.bucket,
        )


def mlflow_login(credentials: Credentials) -> dict[str, str]:
    """Return the variables with user and password for MLflow's client and the embedded server."""
    return {
        "MLFLOW_TRACKING_USERNAME": credentials.mlflow_user,
        "MLFLOW_TRACKING_PASSWORD": credentials.mlflow_password,
    }
