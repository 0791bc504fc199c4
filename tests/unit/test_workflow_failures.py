"""Stored failures of steps, the summary of the cleanup step, and retries."""

import json
from pathlib import Path
from typing import Any

import pytest

from llava_av.errors import UserError
from llava_av.storage import ObjectStore, StoreError
from llava_av.workflows import cleanup
from llava_av.workflows.cleanup import cleanup_step
from llava_av.workflows.runtime import failures, retry
from llava_av.workflows.runtime.workspace import Workspace, step_process

PLACE = ("kubernetes", "cpu", '{"namespace": "jobs"}')


class Store:
    """An object store that holds JSON in memory."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def put_json(self, key: str, value: Any) -> None:
        self.held[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        self.held.pop(key, None)

    def find_json(self, key: str) -> Any:
        return json.loads(self.held[key]) if key in self.held else None


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """Yield the store of a step of pipeline run r1 that runs in its own container."""
    made = Store()
    monkeypatch.setenv("LLAVA_AV_PIPELINE_RUN", "r1")
    monkeypatch.setenv("LLAVA_AV_OUTPUT_DIR", str(tmp_path / "out"))
    monkeypatch.delenv("LLAVA_AV_LIFELINE", raising=False)
    monkeypatch.setattr(ObjectStore, "from_env", lambda: made)
    monkeypatch.setattr(failures, "_TERMINATION_MESSAGE", tmp_path / "termination-log")
    monkeypatch.setattr(cleanup, "delete_jobs", lambda namespace, pipeline_run: [])
    return made


def fail(step: str, error: Exception) -> None:
    logs = Workspace.from_env().logs
    logs.mkdir(parents=True)
    (logs / "training.log").write_text("".join(f"line {number}\n" for number in range(100)))
    with pytest.raises(SystemExit), step_process(step):
        raise error


def test_a_failed_step_leaves_its_cause_and_last_lines(store: Store, tmp_path: Path) -> None:
    fail("train", UserError("no node has\n8 GPUs"))
    kept = json.loads(store.held["pipelines/r1/failed/train.json"])
    assert kept["cause"] == "no node has 8 GPUs"
    assert kept["last_lines"][-1] == "line 99"
    assert (tmp_path / "termination-log").read_text() == "no node has 8 GPUs"


def test_a_bug_is_a_cause_too(store: Store) -> None:
    fail("train", ZeroDivisionError("division by zero"))
    kept = json.loads(store.held["pipelines/r1/failed/train.json"])
    assert kept["cause"].startswith("step train failed: ZeroDivisionError: division by zero")


def test_outside_of_a_cluster_nothing_is_kept(store: Store, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("LLAVA_AV_PIPELINE_RUN")
    fail("train", UserError("no"))
    assert not store.held
    assert not (tmp_path / "termination-log").exists()
    assert cleanup_step("local", "", "{}", state="FAILED").line == "ok"


def test_a_store_that_is_away_hides_no_cause(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def away() -> Store:
        raise StoreError("the object store cannot be reached")

    monkeypatch.setattr(ObjectStore, "from_env", away)
    fail("data", UserError("no dataset"))
    assert "error: no dataset" in capsys.readouterr().err
    ended = cleanup_step(*PLACE, state="FAILED")
    assert ended.line == "cannot read the failures of steps: the object store cannot be reached"


def test_the_summary_has_what_failed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fail("train", UserError("no node has 8 GPUs"))
    asked: list[tuple[str, str]] = []

    def delete(namespace: str, pipeline_run: str) -> list[str]:
        asked.append((namespace, pipeline_run))
        return ["training-1"]

    monkeypatch.setattr(cleanup, "delete_jobs", delete)
    ended = cleanup_step(*PLACE, state="FAILED")
    assert asked == [("jobs", "r1")]
    assert ended.line == "train: no node has 8 GPUs"
    assert "**train: no node has 8 GPUs**" in ended.page
    assert "    line 99\n" in ended.page
    assert "- `training-1`" in ended.page


def test_what_cannot_be_deleted_hides_no_cause(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(namespace: str, pipeline_run: str) -> list[str]:
        raise UserError("not allowed: pytorchjobs list")

    fail("train", UserError("no node has 8 GPUs"))
    monkeypatch.setattr(cleanup, "delete_jobs", refuse)
    ended = cleanup_step(*PLACE, state="FAILED")
    assert ended.line == (
        "train: no node has 8 GPUs; cannot delete orphaned jobs: not allowed: pytorchjobs list"
    )
    assert "no profile 'absent'" in cleanup_step("kubernetes", "absent", "{}", state="FAILED").page


def test_a_step_that_ends_well_after_all_takes_its_cause_back(store: Store) -> None:
    fail("train", UserError("no"))
    with step_process("train"):
        pass
    assert not store.held


def test_a_run_that_went_well_or_was_cancelled_says_so(store: Store) -> None:
    assert cleanup_step(*PLACE, state="SUCCEEDED").line == "ok"
    assert "cancelled" in cleanup_step(*PLACE, state="RUNNING").line


def test_what_may_pass_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    left = [UserError("busy", transient=True), UserError("busy", transient=True)]

    @retry.retry_transient
    def step(text: str) -> str:
        if left:
            raise left.pop()
        return text

    assert step("done") == "done"
    assert pauses == list(retry._PAUSES_S[:2])


@pytest.mark.parametrize("transient", [True, False])
def test_what_stays_is_told(store: Store, monkeypatch: pytest.MonkeyPatch, transient: bool) -> None:
    tries: list[int] = []
    monkeypatch.setattr(retry.time, "sleep", lambda pause_s: None)

    @retry.retry_transient
    def step() -> None:
        tries.append(1)
        raise UserError("no", transient=transient)

    with pytest.raises(UserError, match="no"):
        step()
    assert len(tries) == (len(retry._PAUSES_S) + 1 if transient else 1)


def test_here_a_person_is_told_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAVA_AV_PIPELINE_RUN")
    monkeypatch.setattr(retry.time, "sleep", lambda pause_s: pytest.fail("waited"))

    @retry.retry_transient
    def step() -> None:
        raise UserError("busy", transient=True)

    with pytest.raises(UserError, match="busy"):
        step()
