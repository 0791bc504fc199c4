"""Runs compared with the run of the parent experiment and with the champion, by gates and commands."""

import hashlib
import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from llava_av.experiments.authoring import Draft, new_record, parse_statement
from llava_av.experiments.records import read_record
from llava_av.inference.model_source import local_model_folder
from llava_av.model import fresh_model
from llava_av.provenance.source_code import code_state
from llava_av.recipe import load_recipe
from llava_av.registry.history import AliasHistory
from llava_av.registry.versions import TamperedError, load_version
from llava_av.runs import DatasetName, GateDecision, Run, RunMissing, RunOutcome, TrainingResult
from llava_av.storage import ObjectStore
from llava_av.workflows.compare import compare_runs
from llava_av.workflows.compare_models import compare_models_step
from llava_av.workflows.evaluate import evaluate_step
from llava_av.workflows.evaluate_task import evaluate_task_step
from llava_av.workflows.find_model import find_model
from llava_av.workflows.index import index_step
from llava_av.workflows.model_card import read_model_card
from llava_av.workflows.open_run import open_run, read_run_record
from llava_av.workflows.outcomes import pull_outcomes
from llava_av.workflows.promote import promote_step, run_of_version
from llava_av.workflows.register import register_step
from llava_av.workflows.reproduce import _compared, reproduce_step
from llava_av.workflows.runtime import job_target
from llava_av.workflows.runtime.workspace import Workspace
from llava_av.workflows.version_history import version_history
from tests.commands import ROOT
from tests.forked_group import ForkedLauncher, ForkServer
from tests.integration.evaluated import evaluated_runs
from tests.integration.test_evaluation_task import benchmark

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def store(
    mlflow_environment: Mapping[str, str],
    store_environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> ObjectStore:
    """Create a bucket for this test; MLflow is the session's."""
    both = {**mlflow_environment, "LLAVA_AV_BUCKET": store_environment["LLAVA_AV_BUCKET"]}
    for name, value in both.items():
        monkeypatch.setenv(name, value)
    made = ObjectStore.from_env()
    made.ensure_bucket()
    return made


@pytest.fixture
def records(tmp_path: Path) -> Path:
    words = {"hypothesis": "h", "rationale": "r", "next_steps": "n", "recipe": "quick"}
    enough = (parse_statement("accuracy.av.joint >= 0.5"),)
    new_record(tmp_path, Draft(id="root", title="Root", expected=enough, **words))
    more = (*enough, parse_statement("accuracy.av.joint.low over parent > 0"))
    new_record(tmp_path, Draft(id="child", title="Child", parent="root", expected=more, **words))
    task = parse_statement("daily-omni: accuracy.av.joint.n >= 3")
    new_record(tmp_path, Draft(id="benchmark", title="Benchmark", expected=(*enough, task), **words))
    return tmp_path


@pytest.fixture
def evaluated(store: ObjectStore, records: Path, tmp_path: Path) -> Callable[..., Run]:
    return evaluated_runs(store, records, tmp_path)


def test_an_outcome_over_the_parent_has_a_paired_interval(
    store: ObjectStore, evaluated: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llava_av")
    root = evaluated("root", wrong=40, seed=0)
    child = evaluated("child", wrong=20, seed=1)
    assert "accuracy.av.joint.low over parent above 0.00: 0.0" in caplog.text
    first, second = child.read(RunOutcome).checks
    assert (first.met, second.met, second.reference) == (True, True, f"run {root.id} of root")
    # 20 of 200 questions, each a clip: 0.10 with 1.96 * sqrt(0.09 / 200) on each side.
    assert second.low == pytest.approx(0.1 - 0.0416, abs=0.015)
    assert second.high == pytest.approx(0.1 + 0.0416, abs=0.015)
    changes = child.read(RunOutcome).changes
    assert [change.what for change in changes] == ["seed"]
    copy = tmp_path / "elsewhere" / "experiments" / "child.md"
    assert pull_outcomes(Workspace(folder=tmp_path / "elsewhere"), store, "child") == 1
    assert f"| `{child.id}` |" in read_record(copy).observed[0]
    compared = compare_runs(store, root.id, child.id)
    assert compared.changes == ("seed: 0 → 1",)
    row = compared.rows[0]
    assert (row.ablation, row.family, row.paired) == ("av", "joint", True)
    assert (row.first, row.second, row.value) == pytest.approx((0.8, 0.9, 0.1))
    with pytest.raises(RunMissing, match="there is no run 0123456789abcdef at http"):
        compare_runs(store, root.id, "0123456789abcdef")


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


def test_a_task_is_judged_once_it_was_evaluated(
    evaluated: Callable[..., Run],
    forks: ForkServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "llava_av")
    monkeypatch.setattr(job_target, "LocalLauncher", partial(ForkedLauncher, forks))
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
    assert _in_mlflow(run).data.tags["llava_av.outcome"] == "2 of 2 met"
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


@pytest.mark.parametrize(("wrong", "within"), [(44, True), (90, False)])
def test_another_digest_is_judged_by_the_registered_intervals(
    evaluated: Callable[..., Run], tmp_path: Path, wrong: int, within: bool
) -> None:
    """A second run with another seed stands for one whose environment was not that of the first."""
    before, again = evaluated("root", wrong=40, seed=0), evaluated("root", wrong=wrong, seed=1)
    registered = register_step(Workspace(folder=tmp_path / "out"), before.id)
    version = load_version(before.store, f"models:/{registered.name}/1")
    made = _compared(tmp_path, ROOT, version, before, again, ("numpy 1.0 then, 2.0 now",))
    assert (made.identical, made.within_intervals, made.compared) == (False, within, 4)
    lines = made.lines()
    assert "different here: numpy 1.0 then, 2.0 now" in lines
    assert lines[-1].startswith(f"another digest ({made.digest_now[:12]}…, not {made.digest_before[:12]}…); ")
    if within:
        assert lines[-1].endswith("; all 4 accuracies within the registered 95 % intervals")
    else:
        assert "accuracy.av.joint is 0.550, registered 0.800 [0.739, 0.850]" in lines
        assert lines[-1].endswith(" of 4 accuracies outside the registered 95 % intervals")


def test_an_incomplete_record_marks_everything(store: ObjectStore, records: Path, tmp_path: Path) -> None:
    path = new_record(records, Draft(id="idea", title="Idea", recipe="quick"))
    request = {"recipe": load_recipe("quick"), "dataset": DatasetName(name="words", commit="c" * 64)}
    run = open_run(store, **request, experiment=str(path), code=code_state(), needs="nothing")
    marks = run.request().experiment.incomplete
    assert "expected: at least one checkable statement is missing or empty" in marks
    assert read_run_record(run).expected == ()


def _in_mlflow(run: Run) -> Any:
    client = MlflowClient()
    place = client.get_experiment_by_name(run.request().experiment.id).experiment_id
    (found,) = client.search_runs([place], f"tags.`llava_av.run` = '{run.id}'")
    return found


def test_an_evaluation_is_metrics_in_mlflow_once(evaluated: Callable[..., Run], tmp_path: Path) -> None:
    run = evaluated("root", wrong=40, seed=0)
    found = _in_mlflow(run)
    assert found.data.metrics["held-out/accuracy.av.joint"] == pytest.approx(0.8)
    assert found.data.metrics["held-out/accuracy.video_only.joint"] == pytest.approx(0.2)
    assert found.data.metrics["held-out/kind.av.joint.low"] < 0.8
    assert found.data.metrics["held-out/loss.text_only.joint"] == pytest.approx(0.1)
    assert found.data.metrics["held-out/modality.video_audio.loss"] == pytest.approx(0.1)
    assert found.data.metrics["held-out/difference.text_only.joint"] == pytest.approx(0.6)
    evaluate_step(Workspace(folder=tmp_path / "out"), run.id)
    history = MlflowClient().get_metric_history(found.info.run_id, "held-out/accuracy.av.joint")
    assert [(point.step, point.value) for point in history] == [(8, pytest.approx(0.8))]


def test_a_closed_record_becomes_the_note_in_mlflow(
    evaluated: Callable[..., Run], records: Path, tmp_path: Path
) -> None:
    run = evaluated("root", wrong=40, seed=0)
    command = [sys.executable, "-m", "llava_av", "experiment", "close", str(records / "root.md")]
    command += ["--lessons", "Listening helps.", "--next-steps", "Longer clips."]
    said = subprocess.run(
        [*command, "--output-dir", str(tmp_path / "out")], capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 0, said.stderr
    assert "MLflow: updated the notes of root and of" in said.stdout
    place = MlflowClient().get_experiment_by_name("root")
    for tags in (place.tags, _in_mlflow(run).data.tags):
        assert "Listening helps." in tags["mlflow.note.content"]
        assert f"| `{run.id}` |" in tags["mlflow.note.content"]
    assert place.tags["llava_av.closed"] == read_record(records / "root.md").closed.isoformat()


def test_the_index_has_every_run_with_alias_outcome_and_report(
    store: ObjectStore, evaluated: Callable[..., Run], tmp_path: Path
) -> None:
    workspace = Workspace(folder=tmp_path / "out")
    root, child = evaluated("root", wrong=40, seed=0), evaluated("child", wrong=20, seed=1)
    version = register_step(workspace, root.id)
    promote_step(workspace, root.id)
    store.put_bytes(root.path("report.html"), b"<!doctype html>one")
    made = index_step(store, tmp_path / "index")
    assert (made.runs, made.reports) == (2, 1)
    page = made.page.read_text(encoding="utf-8")
    for text in (root.id, child.id, f"{version.name} {version.version}", "champion", "2 of 2 met"):
        assert text in page, text
    assert page.index("<b>root</b>") < page.index("<b>child</b>")
    linked = made.page.parent / "reports" / f"{root.id}.html"
    assert f'href="reports/{root.id}.html"' in page
    assert linked.read_bytes() == b"<!doctype html>one"
    store.put_bytes(root.path("report.html"), b"<!doctype html>another")
    index_step(store, tmp_path / "index", reports=False)
    assert linked.read_bytes() == b"<!doctype html>one"
    index_step(store, tmp_path / "index")
    assert linked.read_bytes() == b"<!doctype html>another"
