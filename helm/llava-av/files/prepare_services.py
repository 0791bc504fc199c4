"""Create the buckets and the users of MinIO and MLflow after the servers have started; safe to repeat.

The script reads the variables of pipeline steps (AWS_*, MLFLOW_TRACKING_*), BUCKETS, S3_FLAVOUR, MinIO's
S3_ROOT_USER and S3_ROOT_PASSWORD, and MLFLOW_ADMIN_USERNAME and MLFLOW_ADMIN_PASSWORD. JOB_AWS_* are the keys
of training and evaluation; with MLFLOW_ARTIFACTS=direct these also write MLflow's artifacts. SERVING_AWS_*
and SERVING_MLFLOW_TRACKING_* are those of the model server.
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

from llava_av.launch.rights import NO_ADMIN, RUN_OBJECTS, WRITE, allow, policy_of
from llava_av.storage import ObjectStore, StoreError

DEADLINE_S = 900
POLL_S = 1.0
LIST = ("s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads")


def main() -> None:
    buckets = os.environ["BUCKETS"].split(",")
    if os.environ["S3_FLAVOUR"] == "minio":
        wait_for("MinIO's users", lambda: make_minio_users(buckets))
    for bucket in buckets:
        wait_for(f"the bucket {bucket}", lambda bucket=bucket: make_bucket(bucket))
    if os.environ.get("MLFLOW_ADMIN_USERNAME"):
        wait_for("MLflow's users", make_mlflow_users)


def wait_for(what: str, make: Callable[[], None]) -> None:
    """Retry until `make` succeeds, and print the server's error whenever that changes."""
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
                raise SystemExit(f"{what}: not ready within {DEADLINE_S} s: {reason}") from None
        time.sleep(POLL_S)


def make_bucket(bucket: str) -> None:
    store = ObjectStore.from_env({**os.environ, "LLAVA_AV_BUCKET": bucket})
    store.ensure_bucket()
    store.probe()


def make_minio_users(buckets: list[str]) -> None:
    """Create the S3 user of steps and people and, if their keys are set, those of jobs and of the server."""
    from minio.credentials.providers import StaticProvider
    from minio.error import MinioAdminException
    from minio.minioadmin import MinioAdmin

    address = urlsplit(os.environ["AWS_ENDPOINT_URL_S3"])
    root = StaticProvider(os.environ["S3_ROOT_USER"], os.environ["S3_ROOT_PASSWORD"])
    pool = urllib3.PoolManager(timeout=30, retries=False)
    admin = MinioAdmin(
        endpoint=address.netloc, credentials=root, secure=address.scheme == "https", http_client=pool
    )
    direct = os.environ.get("MLFLOW_ARTIFACTS") == "direct"
    policies = {"": ("llava-av-steps", step_policy(buckets))}
    if os.environ.get("JOB_AWS_ACCESS_KEY_ID"):
        policies["JOB_"] = ("llava-av-jobs", job_policy(buckets, mlflow_artifacts=direct))
    if os.environ.get("SERVING_AWS_ACCESS_KEY_ID"):
        policies["SERVING_"] = ("llava-av-serving", serving_policy(buckets))
    try:
        for prefix, (name, policy) in policies.items():
            user = os.environ[f"{prefix}AWS_ACCESS_KEY_ID"]
            admin.policy_add(name, policy=policy)
            admin.user_add(user, os.environ[f"{prefix}AWS_SECRET_ACCESS_KEY"])
            admin.policy_set(name, user=user)
    except (MinioAdminException, urllib3.exceptions.HTTPError) as error:
        raise OSError(str(error)) from error


def step_policy(buckets: list[str]) -> dict[str, Any]:
    """Allow creating the buckets and all operations on their objects, but no change of bucket settings."""
    return policy_of(
        allow((*LIST, "s3:CreateBucket"), buckets),
        allow((*WRITE, "s3:GetObject", "s3:DeleteObject"), buckets, "*"),
        NO_ADMIN,
    )


def job_policy(buckets: list[str], *, mlflow_artifacts: bool) -> dict[str, Any]:
    """Allow training and evaluation to read data, runs and checkpoints, and to write results and checkpoints.

    Args:
        buckets: Names of the buckets.
        mlflow_artifacts: True if jobs upload MLflow's artifacts to S3 directly.
    """
    sent = ("mlflow/*",) if mlflow_artifacts else ()
    # `helm test` probes conditional writes below `probe/`.
    own = ("checkpoints/*", "probe/*")
    results = tuple(f"runs/*/{name}" for name in RUN_OBJECTS)
    return policy_of(
        allow(LIST, buckets),
        allow(("s3:GetObject",), buckets, "blobs/*", "datasets/*", "runs/*", *own, *sent),
        allow(WRITE, buckets, *results, *own, *sent),
        allow(("s3:DeleteObject",), buckets, "runs/*/parts/*", *own),
        NO_ADMIN,
    )


def serving_policy(buckets: list[str]) -> dict[str, Any]:
    """Allow the server to read models and their registrations, and to probe conditional writes."""
    read = ("checkpoints/*", "runs/*", "models/*", "probe/*")
    return policy_of(
        allow(LIST, buckets),
        allow(("s3:GetObject",), buckets, *read),
        allow((*WRITE, "s3:DeleteObject"), buckets, "probe/*"),
        NO_ADMIN,
    )


def make_mlflow_users() -> None:
    """Create users without administrator rights; set the passwords of existing ones to the Secrets'."""
    for prefix in ("", "SERVING_"):
        name = os.environ.get(f"{prefix}MLFLOW_TRACKING_USERNAME")
        if name:
            make_mlflow_user(name, os.environ[f"{prefix}MLFLOW_TRACKING_PASSWORD"])


def make_mlflow_user(name: str, password: str) -> None:
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
    """Send a request to MLflow as a user."""
    pair = base64.b64encode(f"{user['username']}:{user['password']}".encode()).decode()
    headers = {"Authorization": f"Basic {pair}", "Content-Type": "application/json"}
    address = f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, headers, method=method)
    urllib.request.urlopen(request, timeout=30).close()


if __name__ == "__main__":
    main()
