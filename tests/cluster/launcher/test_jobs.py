"""Kubernetes launcher on a cluster: jobs that succeed, fail and are adopted."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_av.launch import JobProfile, JobSpec, KubernetesLauncher, LaunchError
from llava_av.launch.kubernetes.pytorchjob import build_job, job_name
from tests.cluster.launcher.jobs import ENDS_WITHIN_S, Kubectl, Launch, eventually, python

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def test_success_with_the_whole_log(launch: Launch, tmp_path: Path) -> None:
    seen: list[str] = []
    lines = launch(JobSpec(name="zen", module="this"), on_line=seen.append)
    assert lines[0] == "The Zen of Python, by Tim Peters"
    assert lines[-1].startswith("Namespaces are one honking great idea")
    assert len(lines) == 21
    assert [line for line in seen if line in lines] == list(lines)
    assert (tmp_path / "zen.log").read_text().splitlines() == seen


def test_pod_can_write_only_where_volumes_are(launch: Launch) -> None:
    lines = [
        "import os",
        "print('user', os.getuid())",
        "places = ['/', '/usr', '/tmp', '/work', '/cache', '/dev/shm']",
        "print('writable', [place for place in places if os.access(place, os.W_OK)])",
        "print('token', os.path.exists('/var/run/secrets/kubernetes.io/serviceaccount/token'))",
        "print('first process', os.getpid() == 1)",
    ]
    said = launch(python("place", "\n".join(lines)))
    assert said[:4] == (
        "user 1000",
        "writable ['/tmp', '/work', '/cache', '/dev/shm']",
        "token False",
        "first process False",
    )


def test_preparation_comes_first_and_shares_the_volumes(launch: Launch) -> None:
    spec = JobSpec(
        name="prepared",
        module="timeit",
        arguments=("-n1", "-r1", "print(open('/work/data').read())"),
        prepare=("python", "-c", "print('preparing'); open('/work/data', 'w').write('prepared')"),
    )
    assert launch(spec)[:2] == ("preparing", "prepared")


def test_preparation_that_fails_each_time_ends_the_job(launch: Launch, jobs: Callable[[], Any]) -> None:
    spec = JobSpec(
        name="unprepared",
        module="this",
        processes=2,
        prepare=("python", "-c", "raise SystemExit('error: the store refuses access')"),
    )
    with pytest.raises(LaunchError, match="unprepared failed: the store refuses access"):
        launch(spec, retries=1, nodes=2)
    eventually(lambda: job_name(spec) not in jobs())


def test_second_launcher_adopts_the_running_job(launch: Launch, jobs: Callable[[], Any]) -> None:
    spec = python("shared", "import time; print('begin', flush=True); time.sleep(15); print('end')")
    first: list[str] = []
    thread = threading.Thread(target=lambda: launch(spec, on_line=first.append))
    thread.start()
    eventually(lambda: "begin" in first)
    uid = jobs()[job_name(spec)]["metadata"]["uid"]
    second: list[str] = []
    lines = launch(spec, on_line=second.append)
    thread.join(ENDS_WITHIN_S)
    assert second[0].startswith("adopted the existing PyTorchJob")
    assert lines[:2] == ("begin", "end")
    assert [line for line in first if line in ("begin", "end")] == ["begin", "end"]
    assert jobs()[job_name(spec)]["metadata"]["uid"] == uid


def test_finished_job_is_not_run_again(launch: Launch) -> None:
    spec = python("once", "import uuid; print(uuid.uuid4())")
    assert launch(spec)[0] == launch(spec)[0]


def test_finished_job_without_a_result_is_run_again(profile: JobProfile, tmp_path: Path) -> None:
    seen: list[str] = []
    for adopt in (True, False):
        launcher = KubernetesLauncher(tmp_path, profile, adopt_finished=adopt)
        launcher.run(JobSpec(name="found", module="this"), on_line=seen.append)
    assert [line.split()[0] for line in seen if "PyTorchJob" in line] == ["created", "created"]


def test_failed_job_is_created_again(launch: Launch) -> None:
    spec = python("anew", "import uuid; print('error:', uuid.uuid4()); raise SystemExit(3)")
    with pytest.raises(LaunchError) as first:
        launch(spec)
    with pytest.raises(LaunchError) as second:
        launch(spec)
    assert str(first.value) != str(second.value)


def test_failure_has_the_jobs_error(launch: Launch, tmp_path: Path) -> None:
    with pytest.raises(
        LaunchError, match=r"^own failed: no clip x\.mp4; last lines: .*\(job: \S+/own-"
    ) as told:
        launch(python("own", "print('error: no clip x.mp4', flush=True); raise SystemExit(3)"))
    assert "\n" not in str(told.value)
    assert str(tmp_path / "own.log") in str(told.value)


def test_failure_without_an_error_has_the_exit_code(launch: Launch) -> None:
    with pytest.raises(LaunchError, match=r"code failed: it ended with exit code 7"):
        launch(python("code", "import os; os._exit(7)"))


def test_retry_runs_again_with_one_log(launch: Launch, tmp_path: Path) -> None:
    # /work outlives a container like a checkpoint, so the second attempt continues the first.
    statement = (
        "import os\n"
        "again = os.path.exists('/work/mark')\n"
        "for number in range(500): print('attempt', 1 + again, number)\n"
        "open('/work/mark', 'w').close()\n"
        "os._exit(0 if again else 1)"
    )
    launch(python("again", statement), retries=1)
    said = [line for line in (tmp_path / "again.log").read_text().splitlines() if line.startswith("attempt")]
    assert said == [f"attempt {attempt} {number}" for attempt in (1, 2) for number in range(500)]


def test_foreign_job_of_the_same_name_is_left_alone(
    launch: Launch, kubectl: Kubectl, profile: JobProfile, jobs: Callable[[], Any]
) -> None:
    spec = python("taken", "import time; time.sleep(300)")
    foreign = build_job(spec, profile)
    del foreign["metadata"]["labels"]
    kubectl("apply", "-f", "-", stdin=json.dumps(foreign))
    with pytest.raises(LaunchError, match="another program's job has this name"):
        launch(spec)
    assert "deletionTimestamp" not in jobs()[job_name(spec)]["metadata"]
    kubectl("delete", "pytorchjob", job_name(spec), "-n", profile.namespace)


def test_running_job_of_another_profile_is_left_alone(
    launch: Launch, kubectl: Kubectl, profile: JobProfile, jobs: Callable[[], Any]
) -> None:
    spec = python("other", "import time; time.sleep(300)")
    kubectl("apply", "-f", "-", stdin=json.dumps(build_job(spec, profile)))
    with pytest.raises(LaunchError, match="it is already running with another profile"):
        launch(spec, memory="64Mi")
    assert "deletionTimestamp" not in jobs()[job_name(spec)]["metadata"]
    kubectl("delete", "pytorchjob", job_name(spec), "-n", profile.namespace)
