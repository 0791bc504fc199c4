"""A training job whose object store is killed and restarted after a minute."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_av.datasets.demo import make_demo
from llava_av.services.ports import free_ports
from llava_av.services.servers import ServerOptions, embedded_servers
from llava_av.services.state import StateLock
from tests.integration.training.jobs import STEPS, Job, Trained, settings

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

AWAY_S = 60.0
DEADLINE_S = 300.0


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("processes", [2])
def test_an_outage_of_a_minute_is_overcome(tmp_path: Path, processes: int) -> None:
    demo = tmp_path / "demo", make_demo(tmp_path / "demo", seed=0, train_blocks=1, held_out_blocks=1)
    every_step = {**settings("torch", processes=processes), "training__checkpoint_interval": 1}
    lock = StateLock(tmp_path / "state", "command")
    options = ServerOptions(mlflow=False, s3_port=free_ports(1)[0])
    ended: list[Trained | BaseException] = []

    def train(job: Job) -> None:
        try:
            ended.append(job.train("outage", **every_step))
        except BaseException as error:
            ended.append(error)

    with embedded_servers(tmp_path / "state", lock, options) as running:
        named: dict[str, Any] = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
        job = Job({**running.addresses.environment(running.credentials), **named}, demo, tmp_path)
        undisturbed = job.train("undisturbed", **every_step)
        thread = threading.Thread(target=train, args=(job,))
        thread.start()
        until(lambda: bool(ended) or job.store.exists("checkpoints/outage/step-00000001/manifest.json"))
        assert not ended
    # The server is killed without time to end.
    time.sleep(AWAY_S)
    assert not ended
    with embedded_servers(tmp_path / "state", lock, options):
        thread.join(DEADLINE_S)
        (found,) = ended
        assert isinstance(found, Trained), found
    lock.close()
    assert found.digest == undisturbed.digest
    assert found.result["resumed_from"] is None
    assert len(found.rows) == STEPS
