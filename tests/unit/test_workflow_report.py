"""Commands in a report that reproduce its run and query its model."""

import shlex
from pathlib import Path

from llava_av.recipe import load_recipe
from llava_av.runs import DatasetName, ExperimentName, Registration, RunRequest, TrainingResult
from llava_av.workflows.report import _ask, _reproduce
from llava_av.workflows.runtime.workspace import Workspace
from tests.artifacts import sample


def test_run_is_made_again_with_every_override(tmp_path: Path) -> None:
    recipe = load_recipe("quick").with_overrides({"seed": 3, "training.steps": 12})
    request = RunRequest(
        run="0123",
        recipe=recipe.model_dump(mode="json"),
        dataset=DatasetName(name="clips", commit="c0ffee"),
        experiment=ExperimentName(id="dryrun"),
    )
    folder = tmp_path / "my run"
    folder.mkdir()
    (line,) = _reproduce(Workspace(folder=folder), request)
    words = shlex.split(line)
    assert load_recipe(words[words.index("train") + 1]) == recipe
    options = dict(zip(words[-10::2], words[-9::2], strict=True))
    assert options == {
        "--dataset": "clips@c0ffee",
        "--seed": "3",
        "--engine": "deepspeed",
        "--experiment": "dryrun",
        "--output-dir": str(folder),
    }


def test_model_is_asked_by_checkpoint_and_by_alias(tmp_path: Path) -> None:
    checkpoint = {"uri": "s3://bucket/checkpoints/0123/step-1", "digest": "d", "step": 1}
    train = sample(TrainingResult, checkpoint=checkpoint)
    registered = sample(Registration, name="dryrun", aliases=["champion"])
    lines = _ask(Workspace(folder=tmp_path), "c0ffee", train, registered)
    assert " chat s3://bucket/checkpoints/0123/step-1 --output-dir " in lines[0]
    assert " chat models:/dryrun@champion --output-dir " in lines[1]
    assert "mlflow.db" in lines[2]
