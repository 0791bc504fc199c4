"""Training with processes that decode, against the real object store."""

import pytest

from llava_av.training.decode_pool import DECODE_WORKERS_VARIABLE
from tests.integration.training.jobs import Job, settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.mark.slow
def test_the_digest_does_not_depend_on_the_number_of_decoding_processes(job: Job) -> None:
    alone = job.trained(**settings("torch"))
    workers = job.train("decoded", environment={DECODE_WORKERS_VARIABLE: "2"}, **settings("torch"))
    assert workers.column("loss") == alone.column("loss")
    assert workers.digest == alone.digest
