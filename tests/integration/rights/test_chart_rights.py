"""Rights of the chart's users and of session keys, on MinIO: `.ci/minio PROGRAM pytest` this file."""

import os
from collections.abc import Callable

import pytest

from llava_av.storage import ObjectStore
from tests.integration.rights.users import OTHER, RIGHTS, check_rights, may

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("LLAVA_AV_TEST_S3_ENDPOINT_URL"), reason="needs MinIO: .ci/minio"),
]


def test_jobs_write_what_training_and_evaluation_leave_and_nothing_else(
    environment_of: Callable[[str], dict[str, str]],
) -> None:
    steps, jobs = (ObjectStore.from_env(environment_of(user)) for user in ("steps", "jobs"))
    check_rights(steps, jobs, RIGHTS)
    assert jobs.find_json("runs/absent/train.json") is None
    jobs.probe()


def test_the_model_server_reads_models_and_writes_nothing(
    environment_of: Callable[[str], dict[str, str]],
) -> None:
    steps, serving = (ObjectStore.from_env(environment_of(user)) for user in ("steps", "serving"))
    read = ("models/", "runs/", "checkpoints/")
    check_rights(steps, serving, {key: (key.startswith(read), False, False) for key in RIGHTS})
    serving.probe()


def test_users_have_nothing_of_other_buckets(environment_of: Callable[[str], dict[str, str]]) -> None:
    other = {"LLAVA_AV_BUCKET": OTHER}
    ObjectStore.from_env(environment_of("root") | other).ensure_bucket()
    for user in ("steps", "jobs", "serving"):
        store = ObjectStore.from_env(environment_of(user) | other)
        assert not may(lambda store=store: list(store.list()))
        assert not may(lambda store=store: store.put_bytes("checkpoints/a", b"a"))
