"""Operations of the library on a real object store behind a proxy that disturbs every request."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from llava_av.checkpoints import (
    CheckpointState,
    fetch_checkpoint,
    state_digest,
    verify_checkpoint,
    write_checkpoint,
)
from llava_av.datasets.commits import Commit
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.manifest import blob_key
from llava_av.datasets.schema import Sample
from llava_av.errors import UserError
from llava_av.evaluation.job_request import HELD_OUT
from llava_av.evaluation.runner import evaluate
from llava_av.model import fresh_model
from llava_av.provenance.environment import this_environment
from llava_av.provenance.source_code import code_state
from llava_av.recipe import load_recipe
from llava_av.runs import DatasetName, EvaluationWork, TrainedCheckpoint, TrainingResult
from llava_av.storage import ObjectStore, file_sha256
from llava_av.workflows.find_model import find_model
from llava_av.workflows.open_run import open_run
from llava_av.workflows.register import register_step
from llava_av.workflows.runtime.workspace import Workspace
from tests.fault_matrix import CELLS, REPORTED, Fault
from tests.fault_proxy import ALWAYS, FaultProxy, fault_proxy
from tests.integration.commits.folders import copied

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BIG, OTHER_BIG = (os.urandom(1 << 20) * 9 for _ in range(2))
"""Contents of files that are sent in two parts."""


@dataclass
class Place:
    """A bucket with a dataset, a checkpoint, a trained run and a model, directly and through the proxy."""

    direct: ObjectStore
    proxy: FaultProxy
    environment: dict[str, str]
    folder: Path
    splits: dict[str, tuple[Sample, ...]]
    commit: Commit
    checkpoint: str
    run: str
    todo: EvaluationWork
    model_run: str


def text_sample(number: int, image: str | None = None) -> Sample:
    question = "<image>\nWho?" if image else "Who?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"a{number}"}]
    about = {"image": image} if image else {}
    return Sample.model_validate({"id": f"s{number}", "kind": "all", "conversations": turns, **about})


def files(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in ("big.bin", "small.bin")}


def state() -> CheckpointState:
    return CheckpointState(digest=state_digest({"step": 8}), data_position={})


@pytest.fixture(scope="module")
def place(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("faults")
    environment = {**servers.environment(mlflow=True), "LLAVA_AV_BUCKET": "faults"}
    with fault_proxy(urlsplit(environment["AWS_ENDPOINT_URL_S3"]).netloc) as proxy:
        yield make_place(proxy, environment, folder)


def make_place(proxy: FaultProxy, environment: dict[str, str], folder: Path) -> Place:
    store = ObjectStore.from_env(environment)
    store.ensure_bucket()
    (folder / "other").mkdir()
    for place, big, small in ((folder, BIG, b"small"), (folder / "other", OTHER_BIG, b"other")):
        (place / "big.bin").write_bytes(big)
        (place / "small.bin").write_bytes(small)
    splits = {"train": (text_sample(1, "big.bin"), text_sample(2, "small.bin"))}
    commit = commit_dataset(store, "undisturbed", folder, splits, ())
    words = commit_dataset(store, "words", folder, {"held_out": (text_sample(3), text_sample(4))}, ())
    recipe = load_recipe("quick").with_overrides({"name": "faults"})
    dataset = DatasetName(name=words.name, commit=words.id)
    run = open_run(store, recipe=recipe, dataset=dataset, experiment="dryrun", code=code_state())
    ref = write_checkpoint(store, run.id, 8, files(folder), state(), extra={})
    run.write(
        TrainingResult(
            run=run.id,
            checkpoint=TrainedCheckpoint(uri=ref.uri, digest=ref.digest, step=8),
            steps=8,
            resumed_from=None,
            engine="torch",
            processes=1,
            environment=this_environment(),
            seconds=1.0,
        )
    )
    store.put_bytes(run.path("metrics.jsonl"), b'{"step": 1, "loss": 0.5}\n')
    model, processor = fresh_model(recipe, ("Who?", "a3"))
    for part in (model, processor):
        part.save_pretrained(folder / "model")
    named = find_model(store, str(folder / "model"))
    todo = EvaluationWork(
        task=HELD_OUT,
        dataset=dataset,
        split="held_out",
        checkpoint=named.checkpoint,
        media=None,
        max_new_tokens=2,
        bootstrap_draws=200,
        seed=0,
        batch_size=8,
    )
    return Place(store, proxy, environment, folder, splits, commit, ref.uri, run.id, todo, named.run)


def do_commit(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    for path in files(place.folder / "other").values():
        place.direct.delete(blob_key(file_sha256(path)))
    made = commit_dataset(store, name, place.folder / "other", place.splits, ())
    there = copied(place.direct, made, work / "copy")
    return made.manifest, {path.name: path.read_bytes() for path in sorted(there.glob("*.bin"))}


def do_checkout(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    there = copied(store, place.commit, work / "copy")
    return {path.name: path.read_bytes() for path in sorted(there.glob("*.bin"))}


def do_save(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    run = state_digest({"cell": name})[:16]
    ref = write_checkpoint(store, run, 8, files(place.folder), state(), extra={})
    return ref.digest, ref.step, verify_checkpoint(place.direct, ref.uri, digest=ref.digest)


def do_load(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    manifest = fetch_checkpoint(store, place.checkpoint, work)
    return manifest, {path.name: path.read_bytes() for path in sorted(work.iterdir())}


def do_register(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    registered = register_step(Workspace(folder=work), place.run)
    assert place.direct.get_json(f"runs/{place.run}/register.json") == registered.to_json()
    return registered


def do_evaluate(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    at = f"at-{name}"
    place.direct.put_json(f"runs/{place.model_run}/{at}/request.json", place.todo.model_dump(mode="json"))
    evaluate(place.model_run, work, at)
    lines = place.direct.get_bytes(f"runs/{place.model_run}/{at}/predictions.jsonl").splitlines()
    return [json.loads(line)["reply"] for line in lines]


DO: dict[str, Callable[[Place, ObjectStore, str, Path], Any]] = {
    "commit": do_commit,
    "checkout": do_checkout,
    "save": do_save,
    "load": do_load,
    "register": do_register,
    "evaluate": do_evaluate,
}


@pytest.fixture(scope="module")
def undisturbed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return the result of an operation without faults."""
    known: dict[str, Any] = {}

    def result(operation: str) -> Any:
        if operation not in known:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in place.environment.items():
                    patch.setenv(name, value)
                work = tmp_path_factory.mktemp(operation)
                known[operation] = DO[operation](place, place.direct, f"undisturbed-{operation}", work)
        return known[operation]

    return result


def slug(fault: Fault) -> str:
    return re.sub("[^a-z0-9]+", "-", fault.name.lower())


def disturbed(place: Place, fault: Fault) -> Mapping[str, str]:
    """Return the environment with the proxy's address and short retries."""
    retry_s = "1" if fault.always else "60"
    stall_s = {"stall": "0.5", "slow": "1"}.get(fault.kind, "30")
    limits = {"LLAVA_AV_S3_RETRY_S": retry_s, "LLAVA_AV_S3_STALL_S": stall_s}
    place.proxy.fail(fault.kind, ALWAYS if fault.always else 1 + (fault.kind == "truncated"))
    return {**place.environment, **limits, "AWS_ENDPOINT_URL_S3": place.proxy.url}


def cell(fault: Fault, operation: str) -> Any:
    slow = fault.kind in ("stall", "slow") or (
        operation in ("register", "evaluate") and fault.name != "500 once"
    )
    return pytest.param(fault, operation, marks=[pytest.mark.slow] * slow, id=f"{operation}-{slug(fault)}")


@pytest.mark.parametrize(("fault", "operation"), [cell(*each) for each in CELLS])
def test_a_fault_is_overcome_or_reported(
    place: Place,
    undisturbed: Callable[[str], Any],
    fault: Fault,
    operation: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    expected = undisturbed(operation)
    for name, value in disturbed(place, fault).items():
        monkeypatch.setenv(name, value)
    try:
        if fault.outcome == REPORTED:
            with pytest.raises(UserError, match=rf"s3://{place.direct.bucket}/\S") as caught:
                DO[operation](place, ObjectStore.from_env(), slug(fault), tmp_path)
            assert "\n" not in str(caught.value)
        else:
            found = DO[operation](place, ObjectStore.from_env(), slug(fault), tmp_path)
            assert found == expected
    finally:
        place.proxy.fail(None)
