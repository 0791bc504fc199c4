"""Make the buckets, and the jobs' users of MinIO and MLflow, once the servers answer; safe to repeat.

Variables are those that jobs have (AWS_*, MLFLOW_TRACKING_*), and with them BUCKETS, S3_FLAVOUR, S3_ROOT_USER
and S3_ROOT_PASSWORD of MinIO, and MLFLOW_ADMIN_USERNAME and MLFLOW_ADMIN_PASSWORD.
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

import urllib3

from llava_av.storage import ObjectStore, StoreError

DEADLINE_S = 900
POLL_S = 1.0


def main() -> None:
    buckets = os.environ["BUCKETS"].split(",")
    if os.environ["S3_FLAVOUR"] == "minio":
        wait_for("MinIO's user of jobs", lambda: make_minio_user(buckets))
    for bucket in buckets:
        wait_for(f"the bucket {bucket}", lambda bucket=bucket: make_bucket(bucket))
    if os.environ.get("MLFLOW_ADMIN_USERNAME"):
        wait_for("MLflow's user of jobs", make_mlflow_user)


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


def make_bucket(bucket: str) -> None:
    store = ObjectStore.from_env({**os.environ, "LLAVA_AV_BUCKET": bucket})
    store.ensure_bucket()
    store.probe()


def make_minio_user(buckets: list[str]) -> None:
    """A user who may do everything in these buckets, and make them, and nothing else."""
    from minio.credentials.providers import StaticProvider
    from minio.error import MinioAdminException
    from minio.minioadmin import MinioAdmin

    address = urlsplit(os.environ["AWS_ENDPOINT_URL_S3"])
    root = StaticProvider(os.environ["S3_ROOT_USER"], os.environ["S3_ROOT_PASSWORD"])
    pool = urllib3.PoolManager(timeout=30, retries=False)
    admin = MinioAdmin(
        endpoint=address.netloc, credentials=root, secure=address.scheme == "https", http_client=pool
    )
    places = [place for name in buckets for place in (f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*")]
    statement = {"Effect": "Allow", "Action": ["s3:*"], "Resource": places}
    user = os.environ["AWS_ACCESS_KEY_ID"]
    try:
        admin.policy_add("llava-av-jobs", policy={"Version": "2012-10-17", "Statement": [statement]})
        admin.user_add(user, os.environ["AWS_SECRET_ACCESS_KEY"])
        admin.policy_set("llava-av-jobs", user=user)
    except (MinioAdminException, urllib3.exceptions.HTTPError) as error:
        raise OSError(str(error)) from error


def make_mlflow_user() -> None:
    """A user without rights of an administrator; one that is there gets the password of the Secret."""
    name, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
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
