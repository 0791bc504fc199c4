"""A benchmark in its published format, on real media, by a model of a folder, through a real job."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from llava_av.model import fresh_model
from llava_av.recipe import load_recipe
from llava_av.steps.compare_models import compare_models_step
from llava_av.steps.context import Workspace
from llava_av.steps.evaluate_task import evaluate_task_step
from llava_av.tracking.connection import mlflow_client
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
                "Choice": ["A. a click", "B. a song", "C. rain", "D. nothing"],
                "Answer": "A",
            }
        )
    (folder / "qa.json").write_text(json.dumps(rows))
    return folder


def test_it_is_done_once_logged_and_compared(
    mlflow_environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in mlflow_environment.items():
        monkeypatch.setenv(name, value)
    model, processor = fresh_model(load_recipe("quick"), ("A click", "B"))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    data, workspace = benchmark(tmp_path / "data"), Workspace(folder=tmp_path / "out")
    named = str(tmp_path / "model")
    done = evaluate_task_step(workspace, named, "daily-omni", data, batch_size=2)
    assert done["task"]["rule"] == "letter"
    assert {cell["joint"]["n"] for cell in done["accuracy"].values()} == {3}
    assert set(done["accuracy"]) == {"av", "video_only", "audio_only", "text_only", "shuffled_audio"}
    assert list(done["kinds"]["av"]) == ["joint_event-sequence"]
    capsys.readouterr()
    assert evaluate_task_step(workspace, named, "daily-omni", data, batch_size=1) == done
    assert "is evaluated on daily-omni already" in capsys.readouterr().out
    with mlflow_client() as client:
        experiment = client.get_experiment_by_name("evaluations")
        (run,) = client.search_runs([experiment.experiment_id], "status = 'FINISHED'")
    assert run.data.metrics["daily-omni/accuracy.av.joint"] == done["accuracy"]["av"]["joint"]["value"]
    compared = compare_models_step(named, named, "daily-omni")
    assert (compared["all"]["n"], compared["all"]["clips"], compared["all"]["p"]) == (3, 3, 1.0)
    assert compared["all"]["difference"]["value"] == 0.0
