"""Concurrent registration, gate and rollback on MLflow with PostgreSQL, with kills in between."""

import contextlib
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from llava_av.experiments.authoring import Draft, new_record, parse_statement
from llava_av.registry import aliases
from llava_av.registry.aliases import adopt, promote, roll_back, settle, withdraw
from llava_av.registry.history import AliasHistory, PromotionError
from llava_av.registry.versions import load_version, register_version
from llava_av.runs import GateDecision, Registration, Run
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import MlflowError
from llava_av.workflows.promote import promote_step
from llava_av.workflows.register import register_step
from llava_av.workflows.runtime.workspace import Workspace
from tests.integration import promoters
from tests.integration.evaluated import evaluated_runs
from tests.integration.postgres import MlflowOnPostgres, postgres
from tests.integration.test_registry import digest_of, lineage, whole

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PASSED = GateDecision(passed=True)
PROMOTERS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowOnPostgres]:
    with postgres() as database:
        started = MlflowOnPostgres(database=database, log=tmp_path_factory.mktemp("mlflow") / "mlflow.log")
        try:
            started.start()
            yield started
        finally:
            started.kill()


@pytest.fixture
def environment(server: MlflowOnPostgres, store_environment: Mapping[str, str]) -> dict[str, str]:
    return {**store_environment, "MLFLOW_TRACKING_URI": server.uri}


@pytest.fixture
def history(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> AliasHistory:
    """Create the history of a model with one version more than there are promoters."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore.from_env()
    store.ensure_bucket()
    model = f"model-{uuid.uuid4().hex[:12]}"
    for number in range(1, PROMOTERS + 2):
        register_version(store, name=model, lineage=whole(digest_of(number)))
    return AliasHistory(store, model)


def champion_in_mlflow(history: AliasHistory) -> str | None:
    with_alias = MlflowClient().get_registered_model(history.model).aliases
    return with_alias.get("champion")


def give(history: AliasHistory, version: str, before: str | None, **changed: Any) -> None:
    about = {"reason": f"test of {version}", "by": "test", **changed}
    promote(history, version, PASSED, before=before, **about)


@contextlib.contextmanager
def failing_over(server: MlflowOnPostgres, reached: Any, killed: Any) -> Iterator[None]:
    """Kills the server when the first process has come so far, tells all of them, and starts it again."""

    def fail_over() -> None:
        if reached.wait(promoters.WAIT_S):
            server.kill()
            killed.set()
            server.start()

    restart = threading.Thread(target=fail_over)
    restart.start()
    yield
    restart.join()


@pytest.mark.slow
def test_of_many_promoters_one_wins_though_the_server_is_killed_in_between(
    history: AliasHistory, server: MlflowOnPostgres, environment: Mapping[str, str]
) -> None:
    give(history, "1", None)
    recorded, killed = promoters.PROCESSES.Event(), promoters.PROCESSES.Event()
    versions = range(2, PROMOTERS + 2)
    each = [(str(number), "1", recorded, killed) for number in versions]
    with failing_over(server, recorded, killed):
        said_of = promoters.at_once(promoters.promote, environment, history.model, each)
    found = dict(zip(versions, said_of, strict=True))
    (winner,) = [str(number) for number, said in found.items() if said == "won"]
    for number, said in found.items():
        if str(number) != winner:
            assert f"version {number} of {history.model} does not become champion" in said
            assert "it was judged against version 1, and another came first" in said
            assert f"from version 1 to version {winner}" in said
    assert champion_in_mlflow(history) == winner
    assert [(move.before, move.version) for move in history.moves()] == [(None, "1"), ("1", winner)]
    for number in range(1, PROMOTERS + 2):
        found_version = load_version(history.store, f"models:/{history.model}/{number}")
        assert found_version.checkpoint_digest == digest_of(number)
        assert found_version.aliases == (("champion",) if str(number) == winner else ())


@pytest.fixture
def runs(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Run, ...]:
    """Create evaluated runs of one model: a worse one, and one for each promoter."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore.from_env()
    store.ensure_bucket()
    enough = (parse_statement("accuracy.av.joint >= 0.5"),)
    words = {"hypothesis": "h", "rationale": "r", "next_steps": "n", "recipe": "quick"}
    new_record(tmp_path, Draft(id="root", title="Root", expected=enough, **words))
    make = evaluated_runs(store, tmp_path, tmp_path)
    return tuple(make("root", wrong=20 if seed else 60, seed=seed) for seed in range(PROMOTERS + 1))


@pytest.mark.slow
def test_steps_at_once_lose_nothing_though_the_server_is_killed_in_between(
    runs: tuple[Run, ...], server: MlflowOnPostgres, environment: Mapping[str, str], tmp_path: Path
) -> None:
    event, workspace = promoters.PROCESSES.Event, Workspace(folder=tmp_path)
    first, *others = runs
    model = register_step(workspace, first.id).name
    assert promote_step(workspace, first.id).moved == ("champion",)
    searched, killed = event(), event()
    each = [(run.id, tmp_path, searched, killed) for run in (*others, *others)]
    with failing_over(server, searched, killed):
        assert promoters.at_once(promoters.register, environment, model, each) == ["won"] * len(each)
    found = MlflowClient().search_model_versions(f"name = '{model}'")
    numbers = {run.id: run.read(Registration).version for run in runs}
    assert {version.tags["run"]: str(version.version) for version in found} == numbers
    assert len(found) == len(set(numbers.values())) == len(runs)

    recorded, killed, judged = event(), event(), promoters.PROCESSES.Barrier(len(others))
    each = [(run.id, tmp_path / run.id, judged, recorded, killed) for run in others]
    with failing_over(server, recorded, killed):
        said = promoters.at_once(promoters.judge, environment, model, each)
    (winner,) = [run for run, what in zip(others, said, strict=True) if what == "won"]
    assert sum("it was judged against version 1, and another came first" in what for what in said) == 3
    assert winner.read(GateDecision).moved == ("champion",)
    history = AliasHistory(winner.store, model)
    assert champion_in_mlflow(history) == numbers[winner.id]
    # One that came second is judged against the winner when it is promoted again.
    second = next(run for run in others if run.id != winner.id)
    assert promote_step(workspace, second.id).before == numbers[winner.id]
    moves = [(None, "1"), ("1", numbers[winner.id]), (numbers[winner.id], numbers[second.id])]
    assert [(move.before, move.version) for move in history.moves()] == moves


@pytest.mark.slow
def test_of_many_rollbacks_one_is_made(history: AliasHistory, environment: Mapping[str, str]) -> None:
    for version, before in (("1", None), ("2", "1"), ("3", "2")):
        give(history, version, before)
    found = promoters.at_once(promoters.roll_back, environment, history.model, [("2",)] * 3)
    assert sorted(said == "won" for said in found) == [False, False, True]
    assert champion_in_mlflow(history) == "2"
    assert [move.kind for move in history.moves()] == ["promotion", "promotion", "promotion", "rollback"]
    # What was left is not gone back to.
    assert roll_back(history, to=None, reason="worse still", by="test").version == "1"
    with pytest.raises(PromotionError, match="had no champion before version 1; name one with --to"):
        roll_back(history, to=None, reason="none left", by="test")
    with pytest.raises(PromotionError, match=r"version 4 of .* was not champion .*; these were: 2, 3"):
        roll_back(history, to="4", reason="never was", by="test")


def test_what_was_recorded_is_set_by_whoever_comes_next(
    history: AliasHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(history, "1", None)

    def killed(which: AliasHistory) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(aliases, "settle", killed)
        with pytest.raises(KeyboardInterrupt):
            give(history, "2", "1")
    assert champion_in_mlflow(history) == "1"
    give(history, "2", "2")
    assert champion_in_mlflow(history) == "2"
    MlflowClient().set_registered_model_alias(history.model, "champion", "3")
    settle(history)
    assert champion_in_mlflow(history) == "2"


def test_a_champion_of_before_the_record_is_adopted_once_if_its_run_was_promoted(
    history: AliasHistory,
) -> None:
    MlflowClient().set_registered_model_alias(history.model, "champion", "3")
    adopt(history, by="test")
    assert history.moves() == ()
    history.store.put_json(
        f"runs/{lineage(digest_of(3))['run']}/gate.json", {"passed": True, "moved": ["champion"]}
    )
    for _ in range(2):
        adopt(history, by="test")
    assert [(move.kind, move.version) for move in history.moves()] == [("found", "3")]
    with pytest.raises(PromotionError, match="judged against no version, and another came first"):
        give(history, "4", None)
    give(history, "4", "3")
    assert champion_in_mlflow(history) == "4"


def test_challenger_does_not_affect_the_champion(history: AliasHistory) -> None:
    give(history, "1", None)
    give(history, "2", None, alias="challenger")
    assert load_version(history.store, f"models:/{history.model}@challenger").version == "2"
    give(history, "2", "1")
    withdraw(history, "challenger", before="2", reason="it became champion", by="test")
    assert MlflowClient().get_registered_model(history.model).aliases == {"champion": "2"}


def test_refusals_move_nothing(history: AliasHistory) -> None:
    failed = GateDecision(passed=False, reasons=("accuracy.av.joint is 0.71, expected at least 0.90",))
    with pytest.raises(PromotionError, match=r"the gate failed: accuracy\.av\.joint is 0\.71"):
        promote(history, "1", failed, before=None, reason="r", by="test")
    with pytest.raises(PromotionError, match="the gate was not run: too quick"):
        promote(
            history, "1", GateDecision(passed=None, reasons=("too quick",)), before=None, reason="r", by="t"
        )
    with pytest.raises(MlflowError, match=f"no model version models:/{history.model}/77"):
        give(history, "77", None)
    with pytest.raises(PromotionError, match="has no champion, so nothing can be rolled back"):
        roll_back(history, to=None, reason="r", by="test")
    assert history.moves() == ()
    promote(history, "1", failed, before=None, reason="we need it", by="test", override=True)
    assert [move.kind for move in history.moves()] == ["override"]
