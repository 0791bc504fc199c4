"""Jobs of an ingest: their command line, their ID, and sources that a cluster cannot read."""

from pathlib import Path

import pytest

from llava_av.errors import UserError
from llava_av.launch import load_profile
from llava_av.launch.kubernetes.pytorchjob import job_name
from llava_av.workflows.ingest.job import share_of
from llava_av.workflows.ingest.launching import ingest_spec
from llava_av.workflows.ingest.request import CommitRequest
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, JobTarget
from llava_av.workflows.runtime.workspace import Workspace

WORKSPACE = Workspace(folder=Path("/out"))
CLUSTER = JobTarget(launcher="kubernetes", profile=load_profile("cpu"))


def request(**changes: object) -> CommitRequest:
    given = {"source": "s3://raw/clips", "held_out_share": 0.1, "max_bad_share": 0.05, **changes}
    return CommitRequest.model_validate(given)


@pytest.mark.parametrize(
    ("target", "processes", "work", "group"), [(CLUSTER, 4, "/work", 4), (LOCAL_TARGET, 1, "/out", None)]
)
def test_processes_get_the_whole_request(
    target: JobTarget, processes: int, work: str, group: int | None
) -> None:
    wanted = request(message="it's\nnew", depth="headers")
    spec = ingest_spec(WORKSPACE, wanted, target, processes)
    given = dict(zip(spec.arguments[::2], spec.arguments[1::2], strict=True))
    assert CommitRequest.model_validate_json(given["--request"]) == wanted
    assert (given["--run"], spec.run) == (wanted.ingest_id, wanted.ingest_id)
    assert given["--work"].startswith(work)
    assert spec.processes == group


def test_the_id_follows_what_is_read() -> None:
    first = request()
    same = (request(message="Other", author="Ada", depth="headers"), request(source="s3://raw/clips/"))
    assert {one.ingest_id for one in same} == {first.ingest_id}
    others = (request(source="s3://raw/other"), request(name="other"), request(again=True))
    assert len({one.ingest_id for one in (first, *others)}) == 4
    jobs = [ingest_spec(WORKSPACE, one, CLUSTER, 2) for one in (first, same[0])]
    assert len({job_name(job) for job in jobs}) == 2


def test_what_a_cluster_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match=r"folder clips is on this machine.*s3://BUCKET/PREFIX.*local"):
        ingest_spec(WORKSPACE, request(source="clips"), CLUSTER, 2)
    limited = JobTarget(launcher="kubernetes", profile=load_profile("cpu", {"session_credentials": True}))
    with pytest.raises(UserError, match="session_credentials=false"):
        ingest_spec(WORKSPACE, request(), limited, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_each_file_is_in_one_share_of_similar_size(size: int) -> None:
    shares = [share_of(f"media/{number}.mp4", size) for number in range(700)]
    counts = [shares.count(rank) for rank in range(size)]
    assert sum(counts) == 700
    assert min(counts) > 0.7 * 700 / size
