"""Held-out samples that a model cannot take: a few of them do not stop a training."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from llava_av.datasets.media_source import FolderMedia
from llava_av.datasets.schema import Sample
from llava_av.datasets.unfit import UnfitSamplesError
from llava_av.runs import Run, RunRequest
from llava_av.storage import ObjectStore, StoreSettings
from llava_av.training.engines.torch_engine import TorchEngine
from llava_av.training.job_context import JobContext, TrainingData
from llava_av.training.stages import JobStage
from llava_av.training.validation import Validator, build_validator
from tests.artifacts import sample
from tests.model_samples import tiny_model, tiny_recipe

TURNS = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]
FIT = Sample.model_validate({"id": "text", "conversations": TURNS})
GONE = Sample.model_validate({"id": "gone", "conversations": TURNS, "audio": "gone.wav"})


@pytest.fixture(autouse=True)
def _group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def built(folder: Path, *held_out: Sample) -> Validator | None:
    recipe = tiny_recipe(training__validation_interval=1, data__max_bad_share=0.05)
    request = sample(RunRequest, recipe=recipe.model_dump(mode="json"))
    keys = {"access_key": "unused", "secret_key": "unused"}
    store = ObjectStore(StoreSettings(endpoint="http://127.0.0.1:9", bucket="unused", **keys))
    run = Run(store=store, id=request.run)
    stage = JobStage.at(request.recipe, 0, ())
    job = JobContext(run=run, request=request, stage=stage, work=folder, rank=0, processes=1)
    model, processor = tiny_model()
    data = TrainingData(train=(), held_out=held_out, left_out={})
    return build_validator(
        job, TorchEngine(model, recipe), processor, data, FolderMedia(folder), torch.device("cpu")
    )


def test_one_of_few_drawn_samples_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "llava_av"):
        validator = built(tmp_path, FIT, GONE)
    assert validator is not None
    assert math.isfinite(validator.measure()["held_out/loss"])
    assert "sample gone: gone.wav" in caplog.text
    assert "1 of 2 held-out samples" in caplog.text
    assert "(50 %)" in caplog.text


def test_drawn_samples_without_one_that_fits_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnfitSamplesError, match=r"2 of 2 held-out samples .*sample gone: gone\.wav"):
        built(tmp_path, GONE, GONE.model_copy(update={"id": "lost"}))
