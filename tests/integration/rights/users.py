"""Rights of the chart's users, and their checks against a real MinIO."""

import uuid
from collections.abc import Callable
from typing import Any

from llava_av.storage import ObjectStore, StoreError

ROOT_USER = {
    "AWS_ENDPOINT_URL_S3": "LLAVA_AV_TEST_S3_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID": "LLAVA_AV_TEST_S3_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY": "LLAVA_AV_TEST_S3_SECRET_ACCESS_KEY",
}
BUCKET, OTHER = f"rights-{uuid.uuid4().hex[:8]}", f"others-{uuid.uuid4().hex[:8]}"
RUN, OTHER_RUN = "0123456789abcdef", "fedcba9876543210"
AT = "evaluations/t/step-00000001"
# By key: whether a job may read, write and delete it.
RIGHTS = {
    "blobs/ab/abcd": (True, False, False),
    "datasets/d/refs/main": (True, False, False),
    "datasets/d/commits/c.json": (True, False, False),
    "models/m/aliases/00000000.json": (False, False, False),
    "experiments/e/r.json": (False, False, False),
    "mlflow/1/artifacts/a.txt": (False, False, False),
    f"runs/{RUN}/request.json": (True, False, False),
    f"runs/{RUN}/code.json": (True, False, False),
    f"runs/{RUN}/register.json": (True, False, False),
    f"runs/{RUN}/lineage.json": (True, False, False),
    f"runs/{RUN}/gate.json": (True, False, False),
    f"runs/{RUN}/train.json": (True, True, False),
    f"runs/{RUN}/not-finite.json": (True, True, False),
    f"runs/{RUN}/skipped/12/not-finite.json": (True, True, False),
    f"runs/{RUN}/bad-samples.json": (True, True, False),
    f"runs/{RUN}/metrics.jsonl": (True, True, False),
    f"runs/{RUN}/evaluation.json": (True, True, False),
    f"runs/{RUN}/{AT}/request.json": (True, False, False),
    f"runs/{RUN}/{AT}/predictions.jsonl": (True, True, False),
    f"runs/{RUN}/parts/0123/4567.json": (True, True, True),
    f"checkpoints/{RUN}/step-00000001/manifest.json": (True, True, True),
}


def may(use: Callable[[], Any]) -> bool:
    try:
        use()
    except StoreError as error:
        if "(AccessDenied)" not in str(error):
            raise
        return False
    return True


def check_rights(steps: ObjectStore, user: ObjectStore, rights: dict[str, tuple[bool, bool, bool]]) -> None:
    """Try to read, replace, delete and create each object with the keys of `user`."""
    for key, wanted in rights.items():
        before = steps.get_bytes(key) if steps.exists(key) else b"by a step"
        steps.put_bytes(key, before)
        etag = steps.get_with_etag(key)[1]
        found = (
            may(lambda key=key: user.get_bytes(key)),
            may(lambda key=key, etag=etag: user.replace(key, b"by a job", etag)),
            may(lambda key=key: user.delete(key)),
        )
        assert found == wanted, key
        assert may(lambda key=key: user.put_bytes(key, b"by a job")) == wanted[1], key
        steps.delete(key)
