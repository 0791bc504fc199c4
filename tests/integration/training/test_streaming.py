"""Media that are streamed in training, against the real object store."""

import pytest

from llava_av.datasets.manifest import blob_key
from tests.integration.training.jobs import STEPS, Job, Trained, settings

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


def test_samples_that_are_measured_step_by_step_give_the_same_training(job: Job) -> None:
    known = job.trained(**settings("torch"))
    job.launch("by-step", module="tests.measured_by_step", **settings("torch"))
    by_step = Trained(job.store, "by-step")
    assert by_step.digest == known.digest
    assert by_step.column("loss") == known.column("loss")
    assert not (job.folder / "work/by-step/data").exists()


def test_a_lost_blob_is_a_bad_sample_in_all_processes(job: Job) -> None:
    first = next(row for row in job.commit.reader(job.store).files if "train" in row.path)
    content = job.store.get_bytes(blob_key(first.sha256))
    job.store.delete(blob_key(first.sha256))
    try:
        options = {"data__max_bad_share": 0.9, "training__checkpoint_interval": 2, **settings("torch")}
        job.launch("lost-blob", module="tests.measured_by_step", **options)
    finally:
        job.store.put_bytes(blob_key(first.sha256), content)
    lost = Trained(job.store, "lost-blob")
    bad = job.store.get_json("runs/lost-blob/bad-samples.json")["samples"]
    assert bad
    assert all(first.path in one["reason"] and "is lost" in one["reason"] for one in bad)
    assert {one["id"] for one in bad} == {one["id"] for one in lost.result["unfit"]}
    assert [row["step"] for row in lost.rows] == list(range(STEPS))
