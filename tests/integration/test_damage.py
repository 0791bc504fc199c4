"""One changed byte in each S3 object of a finished run, and the errors of its readers."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llava_av.checkpoints import verify_checkpoint
from llava_av.datasets.commits import find_commit
from llava_av.errors import UserError
from llava_av.experiments.authoring import Draft, new_record, parse_statement
from llava_av.registry.history import AliasHistory
from llava_av.report.lineage_tree import history_boxes
from llava_av.runs import Reproduction, Run, RunCode, Starts, TrainingResult
from llava_av.storage import ObjectStore
from llava_av.workflows.baseline_runs import list_outcomes
from llava_av.workflows.evaluate import evaluate_step
from llava_av.workflows.index import index_step
from llava_av.workflows.model_card import read_model_card
from llava_av.workflows.promote import promote_step
from llava_av.workflows.register import register_step
from llava_av.workflows.report import report_step
from llava_av.workflows.runtime.workspace import Workspace
from llava_av.workflows.version_history import version_history
from tests.integration.commits.folders import copied
from tests.integration.evaluated import evaluated_runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Finished:
    """A run with every step done, and its uses."""

    run: Run
    version: str
    folder: Path
    environment: dict[str, str]
    numbers: Iterator[int]

    def new_folder(self) -> Path:
        return self.folder / f"used-{next(self.numbers)}"

    def report(self) -> None:
        report_step(Workspace(folder=self.new_folder()), self.run.id)

    def index(self) -> None:
        index_step(self.run.store, self.new_folder())

    def evaluate(self) -> None:
        evaluate_step(Workspace(folder=self.new_folder()), self.run.id)

    def lineage(self) -> None:
        found = version_history(self.run.store, self.version, contents=True)
        assert found.run is not None
        told = [*found.run.objects.damaged, found.run.patch_state, found.checkpoint_state]
        if damaged := [text for text in told if not text.endswith("verified")]:
            raise UserError("; ".join(damaged))

    def card(self) -> None:
        read_model_card(self.run.store, self.version)

    def dataset(self) -> None:
        copied(self.run.store, find_commit(self.run.store, "words"), self.new_folder())

    def aliases(self) -> None:
        AliasHistory(self.run.store, self.version.split("/")[1]).moves()

    def outcomes(self) -> None:
        list_outcomes(self.run.store, "root")

    def checkpoint(self) -> None:
        checkpoint = self.run.read(TrainingResult).checkpoint
        verify_checkpoint(self.run.store, checkpoint.uri, digest=checkpoint.digest)


@pytest.fixture(scope="module")
def finished_run(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("finished")
    words = {"hypothesis": "h", "rationale": "r", "next_steps": "n", "recipe": "quick"}
    enough = (parse_statement("accuracy.av.joint >= 0.5"),)
    new_record(folder, Draft(id="root", title="Root", expected=enough, **words))
    with pytest.MonkeyPatch.context() as patch:
        bucket = f"damage-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
        environment = {**servers.environment(mlflow=True), "LLAVA_AV_BUCKET": bucket}
        for name, value in environment.items():
            patch.setenv(name, value)
        store = ObjectStore.from_env()
        store.ensure_bucket()
        run = evaluated_runs(store, folder, folder)("root", wrong=10, seed=0)
        yield _finish(run, folder, environment)


@pytest.fixture
def finished(finished_run: Finished, monkeypatch: pytest.MonkeyPatch) -> Finished:
    for name, value in finished_run.environment.items():
        monkeypatch.setenv(name, value)
    return finished_run


def _finish(run: Run, folder: Path, environment: dict[str, str]) -> Finished:
    patch = b"--- a\n+++ b\n"
    changed = {"dirty": True, "patch_sha256": hashlib.sha256(patch).hexdigest()}
    git = run.code().git.model_copy(update=changed)
    run.write(RunCode(digest=run.code().digest, git=git))
    run.store.put_bytes(run.path("code.patch"), patch)
    workspace = Workspace(folder=folder / "out")
    registered = register_step(workspace, run.id)
    promote_step(workspace, run.id)
    made = {"version": "models:/m/1", "run": "0123456789abcdef", "date": "2026-01-01", "host": "node"}
    made |= {"digest_before": "a", "digest_now": "a"}
    nothing = {"outside": (), "compared": 0, "differences": ()}
    run.write_reproduction(Reproduction.model_validate({**made, **nothing}))
    run.write(Starts(starts=1))
    report_step(workspace, run.id)
    return Finished(run, registered.uri, folder, environment, itertools.count())


# Who reads what of a run: by name, or by what its name begins with.
USES: dict[str, Callable[[Finished], None]] = {
    "request.json": Finished.evaluate,
    "train.json": Finished.evaluate,
    "evaluation.json": Finished.evaluate,
    "code.json": Finished.index,
    "opened.json": Finished.index,
    "register.json": Finished.index,
    "gate.json": Finished.index,
    "outcome.json": Finished.index,
    "report.html": Finished.index,
    "experiment.md": Finished.report,
    "metrics.jsonl": Finished.report,
    "predictions.jsonl": Finished.report,
    "comparisons.json": Finished.report,
    "seconds/": Finished.report,
    "model-card.md": Finished.card,
    "code.patch": Finished.lineage,
    "lineage.json": Finished.lineage,
    "reproductions/": Finished.lineage,
    "starts.json": Finished.lineage,
    "summary.json": Finished.lineage,
}
OTHERS: dict[str, Callable[[Finished], None]] = {
    "blobs/": Finished.dataset,
    "checkpoints/": Finished.checkpoint,
    "datasets/": Finished.dataset,
    "experiments/": Finished.outcomes,
    "models/": Finished.aliases,
}


def use_of(finished: Finished, key: str) -> Callable[[Finished], None] | None:
    name = key.removeprefix(finished.run.path(""))
    known = USES if name != key else OTHERS
    return next((use for begin, use in known.items() if name.startswith(begin)), None)


def said_of_a_changed_byte(finished: Finished, key: str) -> str:
    """Return the reader's error after one byte of an object has changed; empty if there is none."""
    store, use = finished.run.store, use_of(finished, key)
    assert use is not None, f"nothing reads {key}"
    kept = store.get_bytes(key)
    changed = bytearray(kept)
    changed[len(changed) // 2] ^= 1
    store.put_bytes(key, bytes(changed))
    try:
        use(finished)
    except UserError as error:
        return str(error)
    finally:
        store.put_bytes(key, kept)
    return ""


def test_a_changed_byte_of_any_object_is_reported_by_its_reader(finished: Finished) -> None:
    keys = [info.key for info in finished.run.store.list() if not info.key.startswith("mlflow/")]
    assert {key.split("/")[0] for key in keys} == {"runs", *(name.rstrip("/") for name in OTHERS)}
    for use in {*USES.values(), *OTHERS.values()}:
        use(finished)
    for key in [key for key in keys if finished.run.store.exists(key)]:
        said = said_of_a_changed_byte(finished, key)
        assert said, key
        assert "\n" not in said
        named = key if key.startswith(("runs/", "experiments/", "models/")) else key.split("/")[-1]
        assert named in said or "train.jsonl" in said or "held_out.jsonl" in said, (key, said)


def test_objects_of_an_earlier_version_are_read_and_shown_as_not_verified(finished: Finished) -> None:
    run = finished.run
    found = version_history(run.store, finished.version)
    assert found.run.objects.unverified == ()
    key = run.path("train.json")
    sealed, plain = run.store.get_bytes(key), run.store.get_sealed(key)
    run.store.put_bytes(key, plain)
    try:
        finished.evaluate()
        found = version_history(run.store, finished.version)
    finally:
        run.store.put_bytes(key, sealed)
    assert found.run.objects.unverified == ("train.json",)
    (box,) = [box for box in history_boxes(found) if box.title == "objects of the run"]
    assert (box.state, box.lines[0]) == ("open", "without a checksum, not verified: train.json")
