"""A benchmark in its published format, on real media, with a model folder, through a real job."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava_av import launch
from llava_av.checkpoints import AdapterBase, CheckpointError, read_manifest, stored_adapter_base
from llava_av.cli.app import app
from llava_av.datasets.commits import read_commit
from llava_av.errors import UserError
from llava_av.launch import JobProfile, JobSpec
from llava_av.launch.kubernetes.pytorchjob import build_job
from llava_av.model import fresh_model
from llava_av.recipe import load_recipe
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import mlflow_client
from llava_av.workflows.compare_models import compare_models_step
from llava_av.workflows.evaluate_task import evaluate_task_step
from llava_av.workflows.find_model import find_model
from llava_av.workflows.runtime.job_target import resolve_job_target
from llava_av.workflows.runtime.workspace import Workspace
from tests.media_samples import click, write_grey_clip

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def benchmark(folder: Path) -> Path:
    rows = []
    for index in range(3):
        place = folder / "Videos" / f"v{index}"
        place.mkdir(parents=True)
        write_grey_clip(place / f"v{index}_video.mp4", click(0.3 + 0.4 * index))
        rows.append(
            {
                "video_id": f"v{index}",
                "Type": "Event Sequence",
                "Question": f"What {index}?",
                "Choice": ["A. a click", "B. a song", "C. rain\u2028or snow", "D. nothing"],
                "Answer": "A",
            }
        )
    (folder / "qa.json").write_text(json.dumps(rows))
    return folder


def test_it_is_done_once_logged_and_compared(
    mlflow_environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in mlflow_environment.items():
        monkeypatch.setenv(name, value)
    model, processor = fresh_model(load_recipe("quick"), ("A click", "B"))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    data, workspace = benchmark(tmp_path / "data"), Workspace(folder=tmp_path / "out")
    named = str(tmp_path / "model")
    done = evaluate_task_step(workspace, named, "daily-omni", data, batch_size=2)
    assert done.task.rule == "letter"
    assert {cell["joint"].n for cell in done.accuracy.values()} == {3}
    assert set(done.accuracy) == {"av", "video_only", "audio_only", "text_only", "shuffled_audio"}
    assert list(done.kinds["av"]) == ["joint_event-sequence"]
    caplog.set_level(logging.INFO, "llava_av")
    assert evaluate_task_step(workspace, named, "daily-omni", data, batch_size=1) == done
    assert "is already evaluated on daily-omni" in caplog.text
    with mlflow_client() as client:
        experiment = client.get_experiment_by_name("evaluations")
        (run,) = client.search_runs([experiment.experiment_id], "status = 'FINISHED'")
    assert run.data.metrics["val/daily-omni.accuracy.av.joint"] == done.accuracy["av"]["joint"].value
    compared = compare_models_step(named, named, "daily-omni")
    assert (compared.paired.all.n, compared.paired.all.clips, compared.paired.all.p) == (3, 3, 1.0)
    assert compared.paired.all.difference.value == 0.0
    compare = ["evaluation", "compare", named, named, "--output-dir", str(tmp_path / "out"), "--task"]
    options = ["daily-omni", "--output", str(tmp_path / "compared.json")]
    shown = CliRunner().invoke(app, [*compare, *options], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "A minus B" in " ".join(shown.output.split())
    assert json.loads((tmp_path / "compared.json").read_text()) == compared.to_json()
    with pytest.raises(UserError, match="--task worldsense --data FOLDER"):
        CliRunner().invoke(app, [*compare, "worldsense"], catch_exceptions=False)


def test_the_base_model_of_an_adapters_folder_is_a_checkpoint(
    store_environment: Mapping[str, str], tmp_path: Path
) -> None:
    store = ObjectStore.from_env(store_environment)
    store.ensure_bucket()

    def stored(address: str | None) -> str:
        folder = tmp_path / str(address).replace("/", "-")
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        if address is not None:
            AdapterBase(address=address, digest="b" * 64).write(folder)
        return find_model(store, str(folder)).checkpoint.uri

    base = store.uri("checkpoints/base-a/step-00000000")
    assert stored_adapter_base(store, stored(base)) == base
    assert stored_adapter_base(store, stored("/bases/a")) == "/bases/a"
    assert stored_adapter_base(store, stored(None)) is None
    for wider in ("runs/0123456789abcdef", "checkpoints/base-a", "checkpoints/base-a/step-00000000/../.."):
        with pytest.raises(CheckpointError, match=f"'{store.uri(wider)}', which is not the address of a"):
            stored_adapter_base(store, stored(store.uri(wider)))


class _Rendered(Exception):
    """Requests that a cluster would have received."""


def test_on_a_cluster_it_is_a_pytorchjob_that_finds_model_and_data_in_the_bucket(
    store_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Up to the launcher all is real; the cluster itself is what tests/cluster has."""
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore.from_env()
    store.ensure_bucket()
    model, processor = fresh_model(load_recipe("quick"), ("A click", "B"))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    class RecordingLauncher:
        def __init__(self, logs: Path, profile: JobProfile, **_: object) -> None:
            self._profile = profile

        def run(self, spec: JobSpec, **_: object) -> None:
            raise _Rendered(build_job(spec, self._profile))

    monkeypatch.setattr(launch, "KubernetesLauncher", RecordingLauncher)
    target = resolve_job_target("kubernetes", "cpu", {"image": "registry/train@sha256:" + "a" * 64})
    with pytest.raises(_Rendered) as caught:
        evaluate_task_step(
            Workspace(folder=tmp_path / "out"),
            str(tmp_path / "model"),
            "daily-omni",
            benchmark(tmp_path / "data"),
            batch_size=2,
            processes=2,
            target=target,
        )
    (job,) = caught.value.args
    assert job["kind"] == "PyTorchJob"
    assert job["metadata"]["name"].startswith("evaluation-daily-omni-")
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    assert int(job["spec"]["nprocPerNode"]) * replica["replicas"] == 2
    (container,) = replica["template"]["spec"]["containers"]
    line = " ".join(container["command"])
    run, at = re.search(r"--run (\S+)", line)[1], re.search(r"--at (\S+)", line)[1]  # type: ignore[index]
    assert "llava_av.evaluation" in line
    assert at == "evaluations/daily-omni/step-00000000"
    # What the pod reads is there: the request, the model put into the bucket, and the committed questions.
    todo = store.get_json(f"runs/{run}/{at}/request.json")
    assert read_manifest(store, todo["checkpoint"]["uri"]).digest == todo["checkpoint"]["digest"]
    commit = read_commit(store, todo["dataset"]["name"], todo["dataset"]["commit"])
    assert commit.manifest.splits["questions"].samples == 3
