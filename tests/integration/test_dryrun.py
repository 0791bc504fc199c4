"""The whole product once: `llava-av dryrun --quick` with two DeepSpeed processes on the embedded servers."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llava_av.recipe import load_recipe
from llava_av.services import service_environment, services_down, services_up
from llava_av.steps.context import STEPS
from llava_av.storage import ObjectStore
from tests.commands import ROOT, llava_av, path_without_compilers, without_network

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
    """A quick dry run with no compiler on the PATH and, where that is permitted, no network but loopback."""
    base = tmp_path_factory.mktemp("quick run")
    folder, prefix = base / "out", without_network()
    environment = {"PATH": path_without_compilers(base / "bin")}
    arguments = ["dryrun", "--quick", "--output-dir", str(folder)]
    code, output = llava_av(arguments, base, prefix=prefix, environment=environment)
    return QuickRun(folder=folder, code=code, output=output, offline=bool(prefix))


@pytest.fixture(scope="module")
def variables(quick: QuickRun) -> Iterator[dict[str, str]]:
    """Where the run's object store and MLflow are, up again also for commands on the same folder."""
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
    assert "trains too little to pass the gate" in quick.output
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
    assert "switched off" in summary["gate"]["reasons"][0]
    assert set(summary["seconds"]) == set(STEPS)
    assert summary["quarantined"] == []


def test_report_stands_by_itself(quick: QuickRun) -> None:
    page = (quick.folder / "report.html").read_text()
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


def test_metrics_are_in_mlflow(quick: QuickRun, store: ObjectStore) -> None:
    from mlflow import MlflowClient

    run = MlflowClient().get_run(_run_object(store, "train.json")["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_s"):
        assert name in run.data.metrics
    assert run.data.params["name"] == "quick"
    assert run.data.params["model.language.model_type"] == "qwen3"


def test_version_has_its_lineage(quick: QuickRun, store: ObjectStore) -> None:
    from llava_av.registry.lineage import missing_parts
    from llava_av.registry.versions import load_version

    version = load_version("models:/quick/1")
    assert missing_parts(version.lineage) == []
    assert version.checkpoint_digest == quick.summary["checkpoint"]["digest"]
    assert version.lineage["dataset"]["commit"] == quick.summary["dataset_commit"]


def test_record_has_what_was_seen(quick: QuickRun) -> None:
    text = (quick.folder / "experiments" / "dryrun.md").read_text()
    assert quick.summary["dataset_commit"][:12] in text


def test_line_to_ask_it_answers_as_it_stands(quick: QuickRun, store: ObjectStore) -> None:
    (line,) = [line for line in quick.output.splitlines() if line.startswith("ask it ")]
    where = {"cwd": quick.folder.parent, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    asked = subprocess.run(
        line.removeprefix("ask it "), shell=True, capture_output=True, text=True, timeout=200, **where
    )
    # what a model says that was trained for eight steps may be nothing but its end
    assert (asked.returncode, asked.stdout[-1:]) == (0, "\n"), asked.stderr
    by_version = line.removeprefix("ask it ").replace(quick.summary["checkpoint"]["uri"], "models:/quick/1")
    again = subprocess.run(by_version, shell=True, capture_output=True, text=True, timeout=200, **where)
    assert again.stdout == asked.stdout


def test_second_run_finds_everything_done(quick: QuickRun, store: ObjectStore) -> None:
    before = quick.summary
    blobs = {info.key: info.etag for info in store.list("blobs/")}
    arguments = ["dryrun", "--quick", "--output-dir", str(quick.folder)]
    code, output = llava_av(arguments, quick.folder.parent / "again")
    assert code == 0, output
    after = quick.summary
    for unchanged in ("dataset_commit", "checkpoint", "model_version", "accuracy"):
        assert after[unchanged] == before[unchanged]
    assert {info.key: info.etag for info in store.list("blobs/")} == blobs
    assert "0 files uploaded" in (quick.folder / "logs" / "pipeline.log").read_text()


def _run_object(store: ObjectStore, name: str) -> dict:
    keys = [info.key for info in store.list("runs/") if info.key.split("/")[2:] == [name]]
    assert len(keys) == 1
    return store.get_json(keys[0])
