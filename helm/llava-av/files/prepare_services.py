"""Make the bucket, the jobs' user of MinIO and their user of MLflow. Waits for the servers, and is safe to repeat.

Variables are those that jobs have (AWS_*, LLAVA_AV_BUCKET, MLFLOW_TRACKING_*), and with them S3_FLAVOUR,
S3_ROOT_USER and S3_ROOT_PASSWORD of MinIO, MLFLOW_ADMIN_USERNAME and MLFLOW_ADMIN_PASSWORD, and where Prometheus
watches, MLFLOW_METRICS_USERNAME and MLFLOW_METRICS_PASSWORD.
"""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from llava_av.storage import ObjectStore, StoreError

DEADLINE_S = 900
POLL_S = 1.0


def main() -> None:
    if os.environ["S3_FLAVOUR"] == "minio":
        wait_for("MinIO's user of jobs", make_minio_user)
    wait_for(f"the bucket {os.environ['LLAVA_AV_BUCKET']}", make_bucket)
    if os.environ.get("MLFLOW_ADMIN_USERNAME"):
        wait_for("MLflow's user of jobs", lambda: make_mlflow_user("MLFLOW_TRACKING"))
    if os.environ.get("MLFLOW_METRICS_USERNAME"):
        wait_for("MLflow's user of Prometheus", lambda: make_mlflow_user("MLFLOW_METRICS"))


def wait_for(what: str, make: Callable[[], None]) -> None:
    """Try until it is made; what a server says meanwhile is printed when it changes."""
    deadline, said = time.monotonic() + DEADLINE_S, ""
    while True:
        try:
            make()
            print(f"{what}: ready", flush=True)
            return
        except (OSError, StoreError, ValueError) as error:
            reason = " ".join(str(error).split())
            if reason != said:
                print(f"{what}: {reason}", flush=True)
            said = reason
            if time.monotonic() > deadline:
                raise SystemExit(f"{what}: not within {DEADLINE_S} s: {reason}") from None
        time.sleep(POLL_S)


def make_bucket() -> None:
    store = ObjectStore.from_env()
    store.ensure_bucket()
    store.probe()


def make_minio_user() -> None:
    """A user who may do everything in the bucket and make it, and nothing else."""
    from minio.credentials.providers import StaticProvider
    from minio.error import MinioAdminException
    from minio.minioadmin import MinioAdmin

    root = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": os.environ["S3_ROOT_USER"],
        "AWS_SECRET_ACCESS_KEY": os.environ["S3_ROOT_PASSWORD"],
    }
    ObjectStore.from_env(root).ensure_bucket()
    address = urlsplit(os.environ["AWS_ENDPOINT_URL_S3"])
    provider = StaticProvider(root["AWS_ACCESS_KEY_ID"], root["AWS_SECRET_ACCESS_KEY"])
    admin = MinioAdmin(endpoint=address.netloc, credentials=provider, secure=address.scheme == "https")
    bucket = f"arn:aws:s3:::{os.environ['LLAVA_AV_BUCKET']}"
    statement = {"Effect": "Allow", "Action": ["s3:*"], "Resource": [bucket, f"{bucket}/*"]}
    try:
        admin.policy_add("llava-av-jobs", policy={"Version": "2012-10-17", "Statement": [statement]})
        admin.user_add(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        admin.policy_set("llava-av-jobs", user=os.environ["AWS_ACCESS_KEY_ID"])
    except MinioAdminException as error:
        raise OSError(str(error)) from error


def make_mlflow_user(variables: str) -> None:
    """A user without rights of an administrator; one that is there gets the password of the Secret."""
    name, password = os.environ[f"{variables}_USERNAME"], os.environ[f"{variables}_PASSWORD"]
    admin = {
        "username": os.environ["MLFLOW_ADMIN_USERNAME"],
        "password": os.environ["MLFLOW_ADMIN_PASSWORD"],
    }
    try:
        ask("GET", f"users/get?username={name}", None, admin)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        ask("POST", "users/create", {"username": name, "password": password}, admin)
        return
    ask("PATCH", "users/update-password", {"username": name, "password": password}, admin)


def ask(method: str, path: str, body: Mapping[str, Any] | None, user: Mapping[str, str]) -> None:
    """Ask MLflow as a user."""
    pair = base64.b64encode(f"{user['username']}:{user['password']}".encode()).decode()
    headers = {"Authorization": f"Basic {pair}", "Content-Type": "application/json"}
    address = f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, headers, method=method)
    urllib.request.urlopen(request, timeout=30).close()


if __name__ == "__main__":
    main()
