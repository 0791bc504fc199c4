"""Keys for one run: what they allow, and what a job can do with them."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3
from minio.credentials import Credentials
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from minio.helpers import sha256_hash
from minio.minioadmin import MinioAdmin
from minio.signer import sign_v4_sts
from minio.time import to_amz_date, utcnow

from llava_av.checkpoints import (
    fetch_checkpoint,
    latest_checkpoint,
    model_files,
    read_manifest,
    stored_adapter_base,
)
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.demo import make_demo
from llava_av.evaluation.job_request import work_of_run
from llava_av.launch import JobSpec, LocalLauncher
from llava_av.processes import set_variables
from llava_av.provenance.source_code import code_state
from llava_av.recipe import Recipe, load_recipe
from llava_av.runs import DatasetName, EvaluationResult, Run, TrainedCheckpoint, TrainingResult
from llava_av.storage import ObjectStore, StoreError, StoreSettings
from llava_av.storage.sts import session_keys
from llava_av.workflows.find_model import find_model
from llava_av.workflows.open_run import open_run
from tests.commands import ROOT
from tests.integration.rights.users import AT, OTHER_RUN, RIGHTS, RUN, check_rights, may

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("LLAVA_AV_TEST_S3_ENDPOINT_URL"), reason="needs MinIO: .ci/minio"),
]


# The same with a session's keys: for the run, and for one evaluation of it.
NOTHING = (False, False, False)
SESSION_RIGHTS = {
    **RIGHTS,
    "datasets/d/refs/main": NOTHING,
    "datasets/d/commits/c.json": (True, False, False),
    "datasets/d/commits/d.json": NOTHING,
    "datasets/d/manifests/m.json": (True, False, False),
    "datasets/d/media/r.json": (True, False, False),
    "datasets/d/packs/r.json": (True, False, False),
    "datasets/e/commits/c.json": NOTHING,
    f"runs/{RUN}/{AT}/predictions.jsonl": (True, False, False),
    f"runs/{RUN}/{AT}/parts/0123.json": (True, False, False),
    f"runs/{OTHER_RUN}/train.json": NOTHING,
    f"runs/{OTHER_RUN}/request.json": NOTHING,
    f"checkpoints/{OTHER_RUN}/step-00000001/manifest.json": NOTHING,
    f"checkpoints/{RUN}0/step-00000001/manifest.json": NOTHING,
    "checkpoints/base-tiny/step-00000000/manifest.json": (True, False, False),
    "checkpoints/base-tiny/step-00000001/manifest.json": NOTHING,
    "checkpoints/base-other/step-00000000/manifest.json": NOTHING,
    "probe/a": NOTHING,
}
EVALUATION_RIGHTS = {
    **SESSION_RIGHTS,
    f"runs/{RUN}/train.json": (True, False, False),
    f"runs/{RUN}/not-finite.json": (True, False, False),
    f"runs/{RUN}/skipped/12/not-finite.json": (True, False, False),
    f"runs/{RUN}/bad-samples.json": (True, False, False),
    f"runs/{RUN}/metrics.jsonl": (True, False, False),
    f"runs/{RUN}/evaluation.json": (True, False, False),
    f"runs/{RUN}/parts/0123/4567.json": (True, False, False),
    f"runs/{RUN}/{AT}/predictions.jsonl": (True, True, False),
    f"runs/{RUN}/{AT}/parts/0123.json": (True, True, True),
    f"runs/{RUN}/{AT}/train.json": (True, False, False),
    f"checkpoints/{RUN}/step-00000001/manifest.json": NOTHING,
    "checkpoints/base-other/step-00000000/manifest.json": (True, False, False),
}
DATASET = {"name": "d", "commit": "c"}
BASE = "checkpoints/base-tiny/step-00000000"
ADAPTER_BASE = "checkpoints/base-other/step-00000000"


def session(environment: dict[str, str], run: str, file: Path, *arguments: str) -> dict[str, str]:
    """Make a session's keys as the pod of a job does; the variables that the job's own container has."""
    command = [
        sys.executable,
        "-m",
        "llava_av.launch.session_keys",
        "--run",
        run,
        "--work",
        "/work",
        *arguments,
    ]
    done = subprocess.run(
        [*command, "--file", str(file), "--seconds", "3645"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = {name: value for name, value in environment.items() if "KEY" not in name}
    return {**kept, "AWS_SHARED_CREDENTIALS_FILE": str(file)}


@pytest.fixture
def opened(environment_of: Callable[[str], dict[str, str]]) -> Iterator[ObjectStore]:
    """Create a bucket with the requests of a run that starts from a base model and of its evaluation."""
    store = ObjectStore.from_env(environment_of("steps"))
    recipe = load_recipe("quick").model_dump(mode="json")
    recipe["model"] = {"base": store.uri(BASE)}
    request = {"run": RUN, "dataset": DATASET, "recipe": recipe, "experiment": {"id": "e"}}
    store.put_json(f"runs/{RUN}/request.json", request)
    checkpoint = TrainedCheckpoint(uri=f"{store.uri(BASE)}/", digest="0", step=0)
    work = work_of_run(Run(id=RUN, store=store).request(), checkpoint)
    work = work.model_copy(update={"adapter_base": store.uri(ADAPTER_BASE)})
    store.put_json(f"runs/{RUN}/{AT}/request.json", work.model_dump(mode="json"))
    yield store
    for info in store.list(f"runs/{RUN}/"):
        store.delete(info.key)


@pytest.mark.parametrize("user", ["steps", "jobs"])
@pytest.mark.parametrize(
    ("arguments", "rights"), [((), SESSION_RIGHTS), (("--at", AT), EVALUATION_RIGHTS)], ids=["run", "at"]
)
def test_a_session_is_for_one_run_alone(
    environment_of: Callable[[str], dict[str, str]],
    opened: ObjectStore,
    tmp_path: Path,
    user: str,
    arguments: tuple[str, ...],
    rights: dict[str, tuple[bool, bool, bool]],
) -> None:
    job = ObjectStore.from_env(session(environment_of(user), RUN, tmp_path / "keys", *arguments))
    check_rights(opened, job, rights)
    assert job.find_json(f"runs/{RUN}/absent.json") is None
    assert job.find_json("datasets/d/packs/absent.json") is None
    assert job.find_json("datasets/d/media/absent.json") is None
    place = f"{AT}/" if arguments else ""
    for prefix in (f"runs/{RUN}/{place}parts/", *(() if arguments else (f"checkpoints/{RUN}/",))):
        assert may(lambda prefix=prefix: list(job.list(prefix))), prefix
    for prefix in ("", "runs/", f"runs/{OTHER_RUN}/", f"checkpoints/{OTHER_RUN}/", "blobs/", "datasets/"):
        assert not may(lambda prefix=prefix: list(job.list(prefix))), prefix


def test_keys_give_no_others_with_more_rights(
    environment_of: Callable[[str], dict[str, str]], opened: ObjectStore, tmp_path: Path
) -> None:
    job = ObjectStore.from_env(session(environment_of("steps"), RUN, tmp_path / "keys")).settings
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"]}]}
    with pytest.raises(StoreError, match="refused session keys"):
        session_keys(job, everything, 3600)
    steps, jobs = (ObjectStore.from_env(environment_of(user)).settings for user in ("steps", "jobs"))
    assert [assume_role(user) for user in (job, steps, jobs)] == [403, 200, 200]
    for user in (job, steps, jobs):
        keys = StaticProvider(str(user.access_key), str(user.secret_key), user.session_token)
        admin = MinioAdmin(endpoint=user.host, credentials=keys, secure=False)
        with pytest.raises(MinioAdminException, match="AccessDenied"):
            admin.add_service_account()


def assume_role(settings: StoreSettings) -> int:
    """Ask for a session without a policy of its own, with the token of a session if there is one."""
    body, now = "Action=AssumeRole&Version=2011-06-15&DurationSeconds=3600", utcnow()
    keys = Credentials(str(settings.access_key), str(settings.secret_key), settings.session_token)
    token = {"X-Amz-Security-Token": settings.session_token} if settings.session_token else {}
    headers = sign_v4_sts(
        method="POST",
        url=urlsplit(settings.endpoint),
        region=settings.region,
        headers={
            "Content-Type": "application/x-www-form-urlencoded",
            "Host": settings.host,
            "X-Amz-Date": to_amz_date(now),
            **token,
        },
        credentials=keys,
        content_sha256=sha256_hash(body),
        date=now,
    )
    return urllib3.request("POST", settings.endpoint, body=body, headers=headers, retries=False).status


def test_a_run_is_trained_and_evaluated_with_keys_for_it_alone(
    environment_of: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    """The keys that a session starts from, those of jobs, have all rights that it has."""
    jobs, store = environment_of("jobs"), ObjectStore.from_env(environment_of("steps"))
    run = _open(store, tmp_path)
    for module, result in (("training", TrainingResult), ("evaluation", EvaluationResult)):
        _launch(run, f"llava_av.{module}", session(jobs, run.id, tmp_path / "keys"), tmp_path)
        assert run.find(result) is not None
    assert not list(store.list(run.path("parts/")))
    _evaluate_at(jobs, run, tmp_path)
    trained = _train_from(jobs, run, tmp_path)
    _evaluate_adapter_folder(jobs, trained, tmp_path)


def _open(store: ObjectStore, folder: Path) -> Run:
    splits = make_demo(folder / "demo", seed=0, train_blocks=1, held_out_blocks=1)
    commit = commit_dataset(store, "demo", folder / "demo", splits, ())
    small = {"training.steps": 4, "training.checkpoint_interval": 1, "evaluation.bootstrap_draws": 200}
    return open_run(
        store,
        recipe=load_recipe("quick").with_overrides(small),
        dataset=DatasetName(name=commit.name, commit=commit.id),
        experiment="dryrun",
        code=code_state(),
        needs="nothing",
    )


def _evaluate_at(environment: dict[str, str], run: Run, folder: Path) -> None:
    """Evaluate a run's model as on a task, with keys for this evaluation."""
    work = work_of_run(run.request(), run.read(TrainingResult).checkpoint)
    run.write(work, f"{AT}/")
    lent = session(environment, run.id, folder / "keys", "--at", AT)
    _launch(run, "llava_av.evaluation", lent, folder, "--at", AT)
    assert run.has(EvaluationResult, f"{AT}/")


def _train_from(environment: dict[str, str], run: Run, folder: Path) -> Run:
    """Train an adapter of the checkpoint of `run`, which a session for the other run may read."""
    checkpoint = latest_checkpoint(run.store, run.id)
    assert checkpoint is not None
    recipe = run.request().recipe.model_dump(mode="json")
    adapter = {"rank": 2, "targets": {"language": "all-linear"}}
    recipe["model"] = {"base": checkpoint.uri, "trainable_parts": ["audio_connector"], "adapter": adapter}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        other = open_run(
            run.store,
            recipe=Recipe.model_validate(recipe),
            dataset=run.request().dataset,
            experiment="dryrun",
            code=code_state(),
            needs="nothing",
        )
    lent = session(environment, other.id, folder / "keys")
    _launch(other, "llava_av.training", lent, folder)
    assert other.has(TrainingResult)
    assert not may(lambda: ObjectStore.from_env(lent).put_bytes(f"checkpoints/{run.id}/a", b"a"))
    return other


def _evaluate_adapter_folder(environment: dict[str, str], trained: Run, folder: Path) -> None:
    """Evaluate the adapter of a run as a folder, whose run in S3 has no request that names a base model."""
    uri = trained.read(TrainingResult).checkpoint.uri
    files = model_files(read_manifest(trained.store, uri), uri)
    fetch_checkpoint(trained.store, uri, folder / "adapter", files)
    named = find_model(trained.store, str(folder / "adapter"))
    base = stored_adapter_base(trained.store, named.checkpoint.uri)
    assert base == trained.request().base_model
    pushed = Run(store=trained.store, id=named.run)
    work = work_of_run(trained.request(), trained.read(TrainingResult).checkpoint)
    changes = {"checkpoint": named.checkpoint, "adapter_base": base}
    pushed.write(work.model_copy(update=changes), f"{AT}/")
    lent = session(environment, pushed.id, folder / "keys", "--at", AT)
    arguments = ("--run", pushed.id, "--work", str(folder / "other-work"), "--at", AT)
    with set_variables(lent):
        LocalLauncher(folder / "logs").run(
            JobSpec(name="adapter", module="llava_av.evaluation", arguments=arguments)
        )
    assert pushed.has(EvaluationResult, f"{AT}/")


def _launch(run: Run, module: str, environment: dict[str, str], folder: Path, *more: str) -> None:
    arguments = ("--run", run.id, "--work", str(folder / "work"), *more)
    processes = run.request().recipe.training.num_processes if module.endswith("training") else None
    spec = JobSpec(name=module, module=module, arguments=arguments, processes=processes)
    with set_variables(environment):
        LocalLauncher(folder / "logs").run(spec)
