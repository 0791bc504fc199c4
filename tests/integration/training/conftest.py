"""Training jobs that the tests of this folder share; one process runs all of them."""

import uuid

import pytest

from llava_av.datasets.demo import make_demo
from tests.integration.training.jobs import Job


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    return root, make_demo(root, seed=0, train_blocks=1, held_out_blocks=1)


@pytest.fixture(scope="session")
def job(servers, forks, demo, tmp_path_factory) -> Job:
    # nothing listens there: training must not need MLflow
    named = {"LLAVA_AV_BUCKET": f"test-{uuid.uuid4().hex}", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    return Job(
        {**servers.environment(mlflow=False), **named}, demo, tmp_path_factory.mktemp("training"), forks
    )
