"""Rights of the users that the chart makes, on a MinIO server: `.ci/minio PROGRAM pytest` this file."""

import importlib.util
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llava_av.datasets.commits import commit_dataset
from llava_av.datasets.demo import make_demo
from llava_av.launch import JobSpec, LocalLauncher
from llava_av.provenance.source_code import code_state
from llava_av.recipe import load_recipe
from llava_av.runs import Run
from llava_av.storage import ObjectStore, StoreError
from llava_av.workflows.open_run import open_run
from tests.commands import ROOT

_ROOT_USER = {
    "AWS_ENDPOINT_URL_S3": "LLAVA_AV_TEST_S3_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID": "LLAVA_AV_TEST_S3_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY": "LLAVA_AV_TEST_S3_SECRET_ACCESS_KEY",
}
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get("LLAVA_AV_TEST_S3_ENDPOINT_URL"), reason="needs MinIO: .ci/minio"),
]
BUCKET, OTHER = f"rights-{uuid.uuid4().hex[:8]}", f"others-{uuid.uuid4().hex[:8]}"
RUN = "0123456789abcdef"
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
    f"runs/{RUN}/metrics.jsonl": (True, True, False),
    f"runs/{RUN}/evaluation.json": (True, True, False),
    f"runs/{RUN}/evaluations/t/step-00000001/request.json": (True, False, False),
    f"runs/{RUN}/evaluations/t/step-00000001/predictions.jsonl": (True, True, False),
    f"runs/{RUN}/parts/0123/4567.json": (True, True, True),
    f"checkpoints/{RUN}/step-00000001/manifest.json": (True, True, True),
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The chart's own script that makes the users."""
    path = ROOT / "helm" / "llava-av" / "files" / "prepare_services.py"
    spec = importlib.util.spec_from_file_location("prepare_services", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def environment_of(script: ModuleType) -> Callable[[str], dict[str, str]]:
    """Make the users as the chart does; the variables of each: `root`, `steps` and `jobs`."""
    root = {name: os.environ[variable] for name, variable in _ROOT_USER.items()}
    keys = {user: (f"{user}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex) for user in ("steps", "jobs")}
    given = {
        "AWS_ENDPOINT_URL_S3": root["AWS_ENDPOINT_URL_S3"],
        "S3_ROOT_USER": root["AWS_ACCESS_KEY_ID"],
        "S3_ROOT_PASSWORD": root["AWS_SECRET_ACCESS_KEY"],
        "AWS_ACCESS_KEY_ID": keys["steps"][0],
        "AWS_SECRET_ACCESS_KEY": keys["steps"][1],
        "JOB_AWS_ACCESS_KEY_ID": keys["jobs"][0],
        "JOB_AWS_SECRET_ACCESS_KEY": keys["jobs"][1],
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        script.make_minio_users([BUCKET])
        script.make_bucket(BUCKET)

    def variables(user: str) -> dict[str, str]:
        access, secret = keys.get(user, (root["AWS_ACCESS_KEY_ID"], root["AWS_SECRET_ACCESS_KEY"]))
        own = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
        return {**root, **own, "LLAVA_AV_BUCKET": BUCKET}

    return variables


def may(use: Callable[[], Any]) -> bool:
    try:
        use()
    except StoreError as error:
        if "(AccessDenied)" not in str(error):
            raise
        return False
    return True


def test_jobs_write_what_training_and_evaluation_leave_and_nothing_else(
    environment_of: Callable[[str], dict[str, str]],
) -> None:
    steps, jobs = (ObjectStore.from_env(environment_of(user)) for user in ("steps", "jobs"))
    for key, rights in RIGHTS.items():
        steps.put_bytes(key, b"by a step")
        etag = steps.get_with_etag(key)[1]
        found = (
            may(lambda key=key: jobs.get_bytes(key)),
            may(lambda key=key, etag=etag: jobs.replace(key, b"by a job", etag)),
            may(lambda key=key: jobs.delete(key)),
        )
        assert found == rights, key
        assert may(lambda key=key: jobs.put_bytes(key, b"by a job")) == rights[1], key
        steps.delete(key)
    assert jobs.find_json("runs/absent/train.json") is None
    jobs.probe()


def test_users_have_nothing_of_other_buckets(environment_of: Callable[[str], dict[str, str]]) -> None:
    other = {"LLAVA_AV_BUCKET": OTHER}
    ObjectStore.from_env(environment_of("root") | other).ensure_bucket()
    for user in ("steps", "jobs"):
        store = ObjectStore.from_env(environment_of(user) | other)
        assert not may(lambda store=store: list(store.list()))
        assert not may(lambda store=store: store.put_bytes("checkpoints/a", b"a"))


def test_a_run_is_trained_and_evaluated_with_the_rights_of_jobs(
    environment_of: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    store = ObjectStore.from_env(environment_of("steps"))
    splits = make_demo(tmp_path / "demo", seed=0, train_blocks=1, held_out_blocks=1)
    commit = commit_dataset(store, "demo", tmp_path / "demo", splits, ())
    small = {"training.steps": 4, "training.checkpoint_interval": 1, "evaluation.bootstrap_draws": 200}
    run = open_run(
        store,
        recipe=load_recipe("quick").with_overrides(small),
        dataset={"name": commit.name, "commit": commit.id},
        experiment="dryrun",
        code=code_state(),
        needs="nothing",
    )
    for module, result in (("training", "train.json"), ("evaluation", "evaluation.json")):
        _launch(run, f"llava_av.{module}", environment_of("jobs"), tmp_path)
        assert run.find(result) is not None
    assert not list(store.list(run.path("parts/")))


def _launch(run: Run, module: str, environment: dict[str, str], folder: Path) -> None:
    arguments = ("--run", run.id, "--work", str(folder / "work"))
    processes = run.recipe().training.num_processes if module.endswith("training") else None
    spec = JobSpec(
        name=module, module=module, arguments=arguments, processes=processes, environment=environment
    )
    LocalLauncher(folder / "logs").run(spec)
