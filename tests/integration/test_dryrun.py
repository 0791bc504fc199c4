"""Whole product once: `llava-av dryrun --quick` with two DeepSpeed processes on the embedded servers."""

import hashlib
import json
import logging
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from llava_av.errors import UserError
from llava_av.inference.model_source import local_model_folder
from llava_av.recipe import load_recipe
from llava_av.registry.history import PromotionError
from llava_av.registry.versions import TamperedError
from llava_av.services import service_environment, services_down, services_up
from llava_av.storage import ObjectStore
from llava_av.workflows.evaluate import evaluate_step
from llava_av.workflows.open_run import open_run_step
from llava_av.workflows.promote import promote_step, roll_back_step
from llava_av.workflows.register import register_step
from llava_av.workflows.report import report_step
from llava_av.workflows.reproduce import reproduce_step
from llava_av.workflows.runtime.workspace import STEPS, Workspace
from llava_av.workflows.train import train_step
from tests.commands import called_here, llava_av, path_without_compilers, without_network
from tests.media_samples import click, write_grey_clip

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class QuickRun:
    folder: Path
    code: int
    output: str
    offline: bool

    @property
    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> QuickRun:
    """Do a quick dry run without a compiler on the PATH and, where permitted, without a network."""
    base = tmp_path_factory.mktemp("quick run")
    folder, prefix = base / "out", without_network()
    environment = {"PATH": path_without_compilers(base / "bin")}
    arguments = ["dryrun", "--quick", "--profile-steps", "2", "--output-dir", str(folder)]
    code, output = llava_av(arguments, base, prefix=prefix, environment=environment)
    return QuickRun(folder=folder, code=code, output=output, offline=bool(prefix))


@pytest.fixture(scope="module")
def variables(quick: QuickRun) -> Iterator[dict[str, str]]:
    """Provide object store and MLflow of the run, which run again also for commands on the same folder."""
    state = quick.folder / "state"
    services_up(state)
    try:
        with service_environment(state) as variables:
            yield variables
    finally:
        services_down(state)


@pytest.fixture
def store(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return ObjectStore.from_env()


def test_it_ends_well_and_says_that_the_gate_was_skipped(quick: QuickRun) -> None:
    assert quick.code == 0, quick.output
    assert "skipping the gate" in quick.output
    assert "gate failed" not in quick.output
    for words in ("report.html", "summary.json", "llava-av services up", "mlflow.db"):
        assert words in quick.output
    assert not list((quick.folder / "state" / "temporary").iterdir())


def test_neither_network_nor_compiler_was_there(quick: QuickRun) -> None:
    if not quick.offline:
        pytest.skip("this machine permits no network namespaces")
    for compiler in ("cc", "gcc", "g++", "clang", "ninja"):
        assert not (quick.folder.parent / "bin" / compiler).exists()


def test_summary_has_what_tools_rely_on(quick: QuickRun) -> None:
    summary = quick.summary
    assert len(summary["dataset_commit"]) == 64
    assert summary["checkpoint"]["uri"].startswith("s3://")
    assert len(summary["checkpoint"]["digest"]) == 64
    assert summary["model_version"] == {"name": "quick", "version": "1", "aliases": []}
    assert set(summary["accuracy"]) == {
        "av", "video_only", "audio_only", "text_only", "shuffled_audio",
    }  # fmt: skip
    for families in summary["accuracy"].values():
        assert set(families) == {"visual", "audio", "joint"}
        for cell in families.values():
            assert set(cell) == {"value", "low", "high", "chance", "n", "unparsed"}
    assert 0.25 <= summary["accuracy"]["av"]["joint"]["chance"] <= 0.5
    assert summary["gate"]["passed"] is None
    assert "turned off" in summary["gate"]["reasons"][0]
    assert set(summary["seconds"]) == set(STEPS)
    assert summary["quarantined"] == []


def test_report_stands_by_itself(quick: QuickRun) -> None:
    page = (quick.folder / "report.html").read_text()
    (linked,) = (quick.folder / "reports").iterdir()
    assert f'href="reports/{linked.name}"' in (quick.folder / "index.html").read_text()
    assert linked.read_text().startswith("<!doctype html>")
    assert "data:video/mp4;base64," in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    for words in ("mlflow.db", "recipe.yaml", "--output-dir out"):
        assert words in page
    assert load_recipe(str(quick.folder / "recipe.yaml")) == load_recipe("quick")


def test_two_deepspeed_processes_trained(quick: QuickRun, store: ObjectStore) -> None:
    trained = _run_object(store, "train.json")
    assert (trained["engine"], trained["processes"]) == ("deepspeed", 2)
    assert trained["resumed_from"] is None
    assert trained["checkpoint"]["digest"] == quick.summary["checkpoint"]["digest"]


def test_training_was_profiled(quick: QuickRun) -> None:
    table = (quick.folder / "logs" / "profile" / "table.txt").read_text()
    assert {"forward", "backward", "optimizer"} <= {line.split()[0] for line in table.splitlines()}
    assert "profile of 2 steps" in (quick.folder / "logs" / "training.log").read_text()


def test_metrics_are_in_mlflow(quick: QuickRun, store: ObjectStore) -> None:
    from mlflow import MlflowClient

    run = MlflowClient().get_run(_run_object(store, "train.json")["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_s"):
        assert name in run.data.metrics
    assert run.data.params["name"] == "quick"
    assert run.data.params["model.language.model_type"] == "qwen3"


def test_version_has_its_lineage(quick: QuickRun, store: ObjectStore) -> None:
    from llava_av.registry.lineage_collection import missing_parts
    from llava_av.registry.versions import load_version

    version = load_version(store, "models:/quick/1")
    assert missing_parts(version.lineage_json) == []
    assert version.checkpoint_digest == quick.summary["checkpoint"]["digest"]
    assert version.lineage.dataset.commit == quick.summary["dataset_commit"]


def test_record_has_what_was_seen(quick: QuickRun) -> None:
    text = (quick.folder / "experiments" / "dryrun.md").read_text()
    assert quick.summary["dataset_commit"][:12] in text


def test_line_to_ask_it_answers_and_so_does_the_version(
    quick: QuickRun, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = [line for line in quick.output.splitlines() if line.startswith("try it ")]
    by_version = line.replace(quick.summary["checkpoint"]["uri"], "models:/quick/1")
    monkeypatch.chdir(quick.folder.parent)
    replies = []
    for command in (line, by_version):
        code, told = called_here(*shlex.split(command.removeprefix("try it "))[1:])
        assert code == 0, told
        replies.append(told.split("loading the model …")[1])
    # what a model says that was trained for eight steps may be nothing but its end
    assert replies[0] == replies[1]
    assert replies[0].endswith("\n")


def test_steps_find_everything_done(
    quick: QuickRun, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Repeat the steps in this process; tests/integration/test_kill_resume.py repeats the command."""
    caplog.set_level(logging.INFO, "llava_av")
    before = quick.summary
    blobs = {info.key: info.etag for info in store.list("blobs/")}
    workspace = Workspace(folder=quick.folder)
    run = open_run_step(workspace, recipe=load_recipe("quick").stated_json(), experiment="dryrun").run
    train_step(workspace, run)
    register_step(workspace, run)
    evaluate_step(workspace, run)
    promote_step(workspace, run, gate=False)
    report_step(workspace, run)
    after = quick.summary
    for unchanged in ("dataset_commit", "checkpoint", "model_version", "accuracy"):
        assert after[unchanged] == before[unchanged]
    assert {info.key: info.etag for info in store.list("blobs/")} == blobs
    assert "0 files uploaded" in caplog.text


def _run_object(store: ObjectStore, name: str) -> dict:
    keys = [info.key for info in store.list("runs/") if info.key.split("/")[2:] == [name]]
    assert len(keys) == 1
    return store.get_json(keys[0])


def _called(quick: QuickRun, *arguments: str) -> tuple[int, str]:
    """Run a command on the folder of the run, whose servers are up, without a process of its own."""
    return called_here(*arguments, "--output-dir", str(quick.folder))


def test_outcome_is_next_to_the_expectation_everywhere(quick: QuickRun, store: ObjectStore) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.get_run(_run_object(store, "train.json")["mlflow_run_id"])
    assert run.data.tags["llava_av.experiment"] == "dryrun"
    assert run.data.tags["llava_av.experiment_incomplete"] == "no"
    assert run.data.tags["llava_av.outcome"].endswith("of 5 met")
    assert "accuracy.av.joint at least 0.90: 0." in run.data.tags["llava_av.outcomes"]
    assert "## Hypothesis" in run.data.tags["mlflow.note.content"]
    noted = client.get_experiment(run.info.experiment_id).tags["mlflow.note.content"]
    assert "## Hypothesis" in noted
    assert "missed by" in (quick.folder / "experiments" / "dryrun.md").read_text()
    (kept,) = store.list("experiments/dryrun/")
    assert store.get_json(kept.key)["recipe"] == "quick"


def test_lineage_card_and_comparison_are_told(quick: QuickRun, store: ObjectStore) -> None:
    drawn = quick.folder / "lineage.html"
    code, told = _called(quick, "lineage", "quick/1", "--verify", "--draw", str(drawn))
    assert code == 0, told
    for words in (
        "every file verified",
        quick.summary["checkpoint"]["digest"][:40],
        "recipe quick",
        "seed 0",
    ):
        assert words in told
    assert quick.summary["dataset_commit"][:40] in drawn.read_text()
    code, card = _called(quick, "model-card", "models:/quick/1")
    front = yaml.safe_load(card.split("---")[1])
    assert (code, front["model-index"][0]["name"]) == (0, "quick")
    assert len(front["model-index"][0]["results"]) == 3
    key = quick.summary["checkpoint"]["uri"].split("/")[-2]
    exported = quick.folder / "exported"
    code, told = _called(
        quick, "model", "export", "models:/quick/1", str(exported), "--license", "apache-2.0"
    )
    assert (code, told) == (0, f"{exported}: model\n")
    written = yaml.safe_load((exported / "README.md").read_text().split("---")[1])
    assert written == {**front, "license": "apache-2.0"}
    assert json.loads((exported / "lineage.json").read_text())["run"] == key
    code, compared = _called(quick, "experiment", "compare", key, "dryrun")
    assert code == 1
    assert f"no run of dryrun other than {key} is evaluated" in compared


def test_runs_models_and_datasets_are_listed_shown_and_pulled(
    quick: QuickRun, store: ObjectStore, tmp_path: Path
) -> None:
    def printed(*arguments: str) -> Any:
        code, told = _called(quick, *arguments, "--json")
        assert code == 0, told
        return json.loads(told)

    summary = quick.summary
    (run,) = printed("runs", "list")
    assert (run["recipe"], run["state"], run["version"]) == ("quick", "evaluated", "quick 1")
    shown = printed("runs", "show", run["run"])
    assert shown["digest"] == summary["checkpoint"]["digest"]
    assert len(shown["expected"]) == 5
    (version,) = printed("model", "list")
    assert (version["model"], version["run"]) == ("models:/quick/1", run["run"])
    accuracy = printed("model", "show", "quick/1")["accuracy"]
    assert accuracy["accuracy.av.joint"] == summary["accuracy"]["av"]["joint"]["value"]
    (dataset,) = printed("data", "list")
    assert (dataset["name"], dataset["commit"]) == ("demo-2x1-seed0", summary["dataset_commit"])
    pulled = printed("model", "pull", "models:/quick/1", str(tmp_path / "model"))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == pulled["files"]
    assert "`llava-av runs list` shows all" in _called(quick, "runs", "show", "0123456789abcdef")[1]
    for listed, name in (("runs", run["run"]), ("model", "models:/quick/1"), ("data", dataset["commit"])):
        assert name in _called(quick, listed, "list")[1]


def test_promotion_and_rollback_need_reasons_that_are_recorded(
    quick: QuickRun, store: ObjectStore, tmp_path: Path
) -> None:
    gate = tmp_path / "other.yaml"
    gate.write_text("{name: other, family: taste, rules: []}")
    code, told = _called(quick, "promote", "models:/quick/1", "--gate", str(gate))
    assert (code, "gate not run: the gate judges taste questions" in told) == (3, True)
    code, told = _called(quick, "promote", "models:/quick/1")
    assert code == 1
    assert "gate failed: differences.video_only.joint.low is" in told
    with pytest.raises(PromotionError, match="requires a reason: add --reason"):
        promote_step(Workspace(folder=quick.folder), "unused", override=True)
    code, told = _called(quick, "promote", "models:/quick/1", "--despite-gate", "--reason", "a check")
    assert code == 0, told
    code, told = _called(quick, "rollback", "quick", "--reason", "a check of going back")
    assert (code, "had no champion before version 1" in told) == (1, True)
    with pytest.raises(PromotionError, match="a rollback requires a reason"):
        roll_back_step("quick", to=None, reason=" ")
    (move,) = store.list("models/quick/aliases/")
    assert {key: store.get_json(move.key)[key] for key in ("version", "kind", "reason")} == {
        "version": "1",
        "kind": "override",
        "reason": "a check",
    }
    code, told = _called(quick, "lineage", "models:/quick@champion")
    assert "champion from no version to version 1 (override by" in " ".join(told.split())
    clip = write_grey_clip(tmp_path / "clip.mp4", click(0.5))
    code, told = _called(quick, "chat", "models:/quick@champion", "What do you hear?", "--video", str(clip))
    assert code == 0, told
    heading, reply = told.split("loading the model …")
    assert (heading, bool(reply.strip())) == ("", True), told


def test_a_checkpoint_that_was_tampered_with_is_refused_by_name(
    quick: QuickRun, store: ObjectStore, tmp_path: Path
) -> None:
    prefix, version = store.key(quick.summary["checkpoint"]["uri"]), "models:/quick/1"
    kept = {name: store.get_bytes(f"{prefix}/{name}") for name in ("manifest.json", "model/config.json")}
    altered = kept["model/config.json"] + b" "
    workspace, run = Workspace(folder=tmp_path), prefix.split("/")[-2]
    uses = (
        lambda: reproduce_step(workspace, version),
        lambda: local_model_folder(version, tmp_path),
        lambda: register_step(workspace, run),
    )
    store.put_bytes(f"{prefix}/model/config.json", altered)
    try:
        for use in uses:
            with pytest.raises(UserError, match=r"file model/config\.json is truncated or altered"):
                use()
        manifest = store.get_json(f"{prefix}/manifest.json")
        sha256 = hashlib.sha256(altered).hexdigest()
        manifest["files"]["model/config.json"] = {"bytes": len(altered), "sha256": sha256}
        store.put_json(f"{prefix}/manifest.json", manifest)
        for use in uses:
            with pytest.raises(
                TamperedError, match=rf"{version} is not what was registered: .*manifest\.json is"
            ):
                use()
        code, told = _called(quick, "lineage", version)
        assert (code, "manifest.json is altered" in " ".join(told.replace("│", " ").split())) == (1, True)
    finally:
        for name, content in kept.items():
            store.put_bytes(f"{prefix}/{name}", content)
