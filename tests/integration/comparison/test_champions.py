"""Gates compare a run with the champion, and versions that were altered are used by nobody."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from llava_av import launch
from llava_av.inference.model_source import local_model_folder
from llava_av.model import fresh_model
from llava_av.recipe import load_recipe
from llava_av.registry.history import AliasHistory
from llava_av.registry.versions import TamperedError
from llava_av.runs import GateDecision, Run, RunOutcome, TrainingResult
from llava_av.storage import ObjectStore
from llava_av.workflows.compare_models import compare_models_step
from llava_av.workflows.evaluate_task import evaluate_task_step
from llava_av.workflows.find_model import find_model
from llava_av.workflows.model_card import read_model_card
from llava_av.workflows.promote import promote_step, run_of_version
from llava_av.workflows.register import register_step
from llava_av.workflows.reproduce import reproduce_step
from llava_av.workflows.runtime.workspace import Workspace
from llava_av.workflows.version_history import version_history
from tests.forked_group import ForkedLauncher, ForkServer
from tests.integration.comparison.found import in_mlflow
from tests.integration.test_evaluation_task import benchmark

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_gates_make_champions_and_challengers(
    store: ObjectStore, evaluated: Callable[..., Run], tmp_path: Path
) -> None:
    workspace = Workspace(folder=tmp_path / "out")

    def judged(wrong: int, seed: int) -> tuple[GateDecision, str]:
        run = evaluated("root", wrong=wrong, seed=seed)
        registered = register_step(workspace, run.id)
        return promote_step(workspace, run.id), registered.name

    first, model = judged(wrong=10, seed=0)
    assert (first.passed, first.moved, first.before) == (True, ("champion",), None)
    worse, _ = judged(wrong=60, seed=1)
    assert (worse.passed, worse.moved) == (False, ("challenger",))
    assert worse.reasons[0].startswith("accuracy.av.joint.low over champion (version 1) [-0.")
    bad, _ = judged(wrong=120, seed=2)
    assert (bad.passed, bad.moved) == (False, ())
    assert "accuracy.av.joint is 0.40, expected at least 0.50" in bad.reasons
    assert MlflowClient().get_registered_model(model).aliases == {"champion": "1", "challenger": "2"}
    better, _ = judged(wrong=4, seed=3)
    assert (better.moved, better.before) == (("champion",), "1")
    moves = AliasHistory(store, model).moves()
    assert [(move.alias, move.before, move.version) for move in moves] == [
        ("champion", None, "1"),
        ("challenger", None, "2"),
        ("champion", "1", "4"),
    ]
    assert moves[-1].reason == "passed the gate champion with 4 rules"
    card = read_model_card(store, f"models:/{model}@champion")
    assert "Gate: passed." in card
    assert f"`{AliasHistory(store, model).uri}`" in card
    assert MlflowClient().get_model_version(model, "4").tags["model_card"].endswith("model-card.md")


@pytest.mark.slow
def test_a_promotion_reads_each_object_of_its_run_once(
    evaluated: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(folder=tmp_path / "out")
    first, run = evaluated("root", wrong=20, seed=0), evaluated("child", wrong=10, seed=1)
    register_step(workspace, first.id)
    promote_step(workspace, first.id)
    register_step(workspace, run.id)
    reads: Counter[str] = Counter()
    get_with_etag = ObjectStore.get_with_etag

    def counted(store: ObjectStore, key: str) -> tuple[bytes, str]:
        reads[key] += 1
        return get_with_etag(store, key)

    monkeypatch.setattr(ObjectStore, "get_with_etag", counted)
    assert promote_step(workspace, run.id).passed
    for name in ("evaluation.json", "experiment.md", "train.json"):
        assert reads[run.path(name)] == 1, name


@pytest.mark.slow
def test_a_task_is_judged_once_it_was_evaluated(
    evaluated: Callable[..., Run],
    forks: ForkServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "llava_av")
    monkeypatch.setattr(launch, "LocalLauncher", partial(ForkedLauncher, forks))
    workspace, gate = Workspace(folder=tmp_path / "out"), tmp_path / "own.yaml"
    rule = {"metric": "accuracy.av.joint", "task": "daily-omni"}
    rules = [{**rule, "at_least": 0.0}, {**rule, "over": "champion", "at_least": 0.0}]
    gate.write_text(json.dumps({"name": "own", "rules": rules}))
    for part in fresh_model(load_recipe("quick"), ("A click", "B")):
        part.save_pretrained(tmp_path / "model")
    champion, run = (evaluated("benchmark", wrong=10, seed=seed, model=tmp_path / "model") for seed in (0, 1))
    for each in (champion, run):
        register_step(workspace, each.id)
    promote_step(workspace, champion.id, rules=str(gate), override=True, reason="the first")
    decided = promote_step(workspace, run.id, rules=str(gate))
    assert (decided.passed, decided.moved) == (False, ())
    told = "daily-omni: accuracy.av.joint is not in the evaluation on daily-omni (no task daily-omni)"
    assert decided.reasons[0].startswith(told)
    assert run.read(RunOutcome).checks[1].met is None

    data = benchmark(tmp_path / "data")

    def asked(model: str) -> None:
        evaluate_task_step(workspace, model, "daily-omni", data, batch_size=3)

    asked(run.id)
    assert "expected daily-omni: accuracy.av.joint.n at least 3: 3, met by" in caplog.text
    first, second = run.read(RunOutcome).checks
    assert (first.met, second.met, second.seen) == (True, True, 3)
    assert in_mlflow(run).data.tags["llava_av.outcome"] == "2 of 2 met"
    (reason,) = promote_step(workspace, run.id, rules=str(gate)).reasons
    assert "evaluation of this model and of its champion (version 1) on daily-omni" in reason
    asked(f"models:/{register_step(workspace, champion.id).name}/1")
    passed = promote_step(workspace, run.id, rules=str(gate))
    assert (passed.passed, passed.moved, passed.reasons) == (True, ("champion",), ())
    # The same weights answer three questions equally: the interval of three pairs, not of what was held out.
    assert passed.rules[1].seen == 0.0
    card = read_model_card(run.store, f"models:/{register_step(workspace, run.id).name}/2")
    assert "On `daily-omni`, version 1:" in card
    results = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"]
    assert [result["dataset"]["name"] for result in results] == ["words", "daily-omni"]
    assert passed.rules[1].high == pytest.approx(1 - 0.025 ** (1 / 3))


def test_a_version_that_was_tampered_with_is_used_by_nobody(
    store: ObjectStore, evaluated: Callable[..., Run], tmp_path: Path
) -> None:
    workspace, run = Workspace(folder=tmp_path / "out"), evaluated("root", wrong=10, seed=0)
    registered = register_step(workspace, run.id)
    version = f"models:/{registered.name}/1"
    data = benchmark(tmp_path / "data")
    uses = (
        lambda: evaluate_task_step(workspace, version, "daily-omni", data, batch_size=3),
        lambda: compare_models_step(version, run.id, None),
        lambda: promote_step(workspace, run.id),
    )
    prefix = store.key(registered.checkpoint_uri)
    manifest = store.get_json(f"{prefix}/manifest.json")
    store.put_bytes(f"{prefix}/model/weights.bin", b"others")
    for use in uses:
        with pytest.raises(TamperedError, match=rf"{version} is not .* file model/weights\.bin .*6 bytes"):
            use()
    other = {"bytes": len(b"others"), "sha256": hashlib.sha256(b"others").hexdigest()}
    manifest["files"]["model/weights.bin"] = other
    store.put_json(f"{prefix}/manifest.json", manifest)
    for use in uses:
        with pytest.raises(TamperedError, match=rf"{version} is not .* manifest\.json is altered"):
            use()
    assert AliasHistory(store, registered.name).moves() == ()


@pytest.mark.slow
def test_a_version_that_was_forged_in_mlflow_is_used_by_nobody(
    store: ObjectStore,
    evaluated: Callable[..., Run],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The attacker may write to MLflow and reach a checkpoint of their own, but not write to S3."""
    workspace, run = Workspace(folder=tmp_path / "out"), evaluated("root", wrong=10, seed=0)
    attackers = evaluated("root", wrong=60, seed=1)
    name = register_step(workspace, run.id).name
    promote_step(workspace, run.id)
    client = MlflowClient()
    tags = dict(client.get_model_version(name, "1").tags)
    lineage = json.loads(tags["lineage"])
    del lineage["checkpoint"]["manifest_sha256"]
    source = attackers.read(TrainingResult).checkpoint.uri
    forged = client.create_model_version(
        name, source, tags={**tags, "lineage": json.dumps(lineage)}, await_creation_for=0
    ).version
    client.set_registered_model_alias(name, "champion", forged)
    uses: dict[str, Callable[[str], Any]] = {
        "lineage": lambda uri: version_history(store, uri).registered.version,
        "chat": lambda uri: local_model_folder(uri, tmp_path / "chat").parent.name,
        "compare": lambda uri: compare_models_step(uri, run.id, None).checkpoints[0].digest,
        "evaluate": lambda uri: find_model(store, uri).checkpoint.digest,
        "promote": run_of_version,
        "model-card": lambda uri: run.id in read_model_card(store, uri),
    }
    for use in (*uses.values(), lambda uri: reproduce_step(workspace, uri)):
        with pytest.raises(TamperedError, match=f"models:/{name}/{forged} .* is a copy made in MLflow"):
            use(f"models:/{name}/{forged}")
    found = {what: use(f"models:/{name}@champion") for what, use in uses.items()}
    digest = run.read(TrainingResult).checkpoint.digest
    ours = {"lineage": "1", "promote": run.id, "model-card": True}
    assert found == {**ours, **dict.fromkeys(("chat", "compare", "evaluate"), digest)}
    assert caplog.text.count(f"which counts; MLflow has it at version {forged}") == len(uses)
    # The gate compares with the champion of S3's record, and MLflow's alias follows that again.
    register_step(workspace, attackers.id)
    assert promote_step(workspace, attackers.id).before == "1"
    assert client.get_registered_model(name).aliases["champion"] == "1"


@pytest.mark.slow
def test_nothing_holds_over_a_champion_that_was_not_evaluated(
    store: ObjectStore, evaluated: Callable[..., Run], tmp_path: Path
) -> None:
    workspace = Workspace(folder=tmp_path / "out")
    champion, run = evaluated("root", wrong=60, seed=0), evaluated("root", wrong=10, seed=1)
    for each in (champion, run):
        register_step(workspace, each.id)
    promote_step(workspace, champion.id)
    store.delete(champion.path("evaluation.json"))
    decided = promote_step(workspace, run.id)
    assert (decided.passed, decided.moved) == (False, ("challenger",))
    assert decided.reasons == (
        "accuracy.av.joint.low over champion is not in the evaluation of this model and of its champion "
        f"(version 1, whose run {champion.id} has no evaluation.json), expected at least -0.03",
    )
