"""Ends of jobs and launchers: kills, deadlines, foreign jobs, and what is deleted."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_av.launch import (
    PIPELINE_LABEL,
    JobProfile,
    JobSpec,
    LaunchError,
    delete_jobs,
    pipeline_runs_with_jobs,
)
from llava_av.launch.kubernetes.pytorchjob import job_name
from tests.cluster.launcher.jobs import ENDS_WITHIN_S, Kubectl, Launch, eventually, python
from tests.cluster.services import ABSENT_IMAGE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

TRAIN_IMAGE = os.environ.get("LLAVA_AV_TRAIN_IMAGE", "")


def test_killed_pod_restarts_and_its_log_is_followed(
    launch: Launch, kubectl: Kubectl, profile: JobProfile
) -> None:
    spec = python(
        "killed",
        "import os, time\n"
        "print('pod of', os.environ['HOSTNAME'], flush=True)\n"
        "for second in range(12): print('second', second, flush=True); time.sleep(1)",
    )
    seen: list[str] = []
    thread = threading.Thread(target=lambda: launch(spec, on_line=seen.append, retries=1))
    thread.start()
    eventually(lambda: "second 3" in seen)
    kubectl("delete", "pod", f"{job_name(spec)}-master-0", "-n", profile.namespace, "--wait=false")
    thread.join(ENDS_WITHIN_S)
    assert sum(line.startswith("pod of") for line in seen) == 2
    assert [line for line in seen if line.startswith("second")][-12:] == [f"second {n}" for n in range(12)]


@pytest.mark.parametrize(
    ("name", "changes", "cause"),
    [
        ("image", {"image": ABSENT_IMAGE}, "the registry has no such image"),
        ("word", {"image": "No Image"}, "not a valid image reference|couldn't parse image|Invalid"),
        (
            "gpus",
            {"gpus_per_node": 1000},
            r"it requests 1 GPUs \(nvidia.com/gpu\), and no node has more than 0",
        ),
        ("memory", {"memory": "900Ti"}, "it requests memory 900Ti, and no node has more than"),
        ("place", {"node_selector": {"no": "where"}}, "no node has the labels no=where"),
        ("secret", {"credentials_secret": "absent"}, "Secret 'absent' does not exist"),
        ("services", {"services_config_map": "absent"}, "ConfigMap 'absent' does not exist"),
        ("authority", {"ca_config_map": "absent"}, "ConfigMap 'absent' does not exist"),
        ("volume", {"work_claim": "absent"}, "volume claim 'absent' does not exist"),
        ("account", {"service_account": "absent"}, 'serviceaccount "absent" not found'),
        ("priority", {"priority_class": "absent"}, "no PriorityClass with name absent"),
        ("nowhere", {"namespace": "llava-av-absent"}, 'namespaces "llava-av-absent" not found'),
    ],
)
def test_job_that_cannot_run_has_a_cause_and_is_deleted(
    name: str, changes: dict[str, Any], cause: str, launch: Launch, jobs: Callable[[], Any]
) -> None:
    spec = JobSpec(name=name, module="this")
    with pytest.raises(LaunchError, match=cause) as told:
        launch(spec, **changes)
    assert "\n" not in str(told.value)
    eventually(lambda: job_name(spec) not in jobs())


def test_job_that_waits_warns_until_its_patience_ends(launch: Launch, jobs: Callable[[], Any]) -> None:
    spec, seen = JobSpec(name="waits", module="this"), list[str]()
    with pytest.raises(
        LaunchError, match=r"waited \d+ s \(patience_s of the profile\): no node has free capacity"
    ):
        launch(spec, on_line=seen.append, cpu="1000", autoscaled=True, patience_s=6)
    assert any(line.startswith("warning: ") and "Insufficient cpu" in line for line in seen)
    eventually(lambda: job_name(spec) not in jobs())


def test_out_of_memory(launch: Launch) -> None:
    with pytest.raises(LaunchError, match=r"ran out of memory \(OOMKilled, limit 128Mi\)"):
        launch(python("memory", "x = [bytearray(10**7) for _ in range(100)]"))


def test_deadline(launch: Launch, pods: Callable[[str], Any]) -> None:
    spec = python("late", "import time; time.sleep(300)")
    with pytest.raises(LaunchError, match="still active after deadline_s=6 of its profile"):
        launch(spec, deadline_s=6)
    eventually(lambda: not any(pod["status"]["phase"] == "Running" for pod in pods(job_name(spec)).values()))


PROCESS = """
import json, signal, sys
from pathlib import Path
# Background processes of a shell ignore SIGINT, and this process would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
from llava_av.launch import JobProfile, JobSpec, KubernetesLauncher
profile, spec, labels = (json.loads(sys.argv[place]) for place in (1, 2, 4))
profile, logs = JobProfile.model_validate(profile), Path(sys.argv[3])
launcher = KubernetesLauncher(logs, profile, labels=labels)
launcher.run(JobSpec(**spec), on_line=lambda line: print(line, flush=True))
"""


def start_launcher(
    spec: JobSpec, profile: JobProfile, logs: Path, pipeline_run: str = ""
) -> "subprocess.Popen[str]":
    """Start a process that runs the job, optionally for a pipeline run, and prints its lines."""
    labels = {PIPELINE_LABEL: pipeline_run} if pipeline_run else {}
    values = [profile.model_dump_json(), json.dumps(vars(spec)), str(logs), json.dumps(labels)]
    return subprocess.Popen([sys.executable, "-c", PROCESS, *values], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ended_launcher_deletes_its_job(
    number: signal.Signals,
    profile: JobProfile,
    jobs: Callable[[], Any],
    pods: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    # Python as a pod's PID 1 would ignore SIGTERM; it must exit well before the grace period ends.
    spec = python(f"end-{number.name.lower()}", "import time; print('begin', flush=True); time.sleep(600)")
    patient = profile.with_overrides({"grace_s": 300})
    process = start_launcher(spec, patient, tmp_path)
    assert process.stdout is not None
    assert any(line == "begin\n" for line in process.stdout)
    process.send_signal(number)
    assert process.wait(ENDS_WITHIN_S) != 0
    eventually(lambda: job_name(spec) not in jobs() and not pods(job_name(spec)), within_s=60)


def test_jobs_of_pipeline_runs_outlive_their_launcher(
    profile: JobProfile, jobs: Callable[[], Any], tmp_path: Path
) -> None:
    spec = python("owned", "import time; print('begin', flush=True); time.sleep(600)")
    first = start_launcher(spec, profile, tmp_path / "first", pipeline_run="run-1")
    assert first.stdout is not None
    assert any(line == "begin\n" for line in first.stdout)
    second = start_launcher(spec, profile, tmp_path / "second", pipeline_run="run-2")
    assert second.stdout is not None
    assert any("adopted" in line for line in second.stdout)
    second.terminate()
    assert second.wait(ENDS_WITHIN_S) != 0
    assert "deletionTimestamp" not in jobs()[job_name(spec)]["metadata"]
    assert pipeline_runs_with_jobs(profile.namespace) == {"run-1"}
    assert delete_jobs(profile.namespace, pipeline_run="run-2") == []
    assert delete_jobs(profile.namespace, pipeline_run="run-1") == [job_name(spec)]
    # The follower reports that the job was deleted, as a failure that a retry may fix.
    assert first.wait(ENDS_WITHIN_S) != 0
    eventually(lambda: job_name(spec) not in jobs(), within_s=60)


def test_launcher_ended_while_it_creates_leaves_no_job(
    profile: JobProfile, jobs: Any, tmp_path: Path
) -> None:
    spec = python("early", "import time; time.sleep(600)")
    process = start_launcher(spec, profile, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("created PyTorchJob")
    process.terminate()
    assert process.wait(ENDS_WITHIN_S) == 128 + signal.SIGTERM
    eventually(lambda: job_name(spec) not in jobs(), within_s=60)


@pytest.mark.skipif(not TRAIN_IMAGE, reason="LLAVA_AV_TRAIN_IMAGE names no image with torch")
@pytest.mark.parametrize("killed", [None, 0, 1])
def test_two_nodes_rendezvous_again_after_a_pod_is_killed(
    killed: int | None, launch: Launch, kubectl: Kubectl, profile: JobProfile
) -> None:
    statement = (
        "import os, time, torch\n"
        "from torch import distributed\n"
        "distributed.init_process_group('gloo')\n"
        "rank, total = distributed.get_rank(), torch.ones(1)\n"
        "# Only rank 0 prints, because unbuffered lines of several processes would mix.\n"
        "place = (distributed.get_world_size(), os.environ['HOSTNAME'])\n"
        "if rank == 0: print('rank 0 of', *place, flush=True)\n"
        "for step in range(15):\n"
        "    distributed.all_reduce(total)\n"
        "    if rank == 0: print('step', step, total.item(), flush=True)\n"
        "    time.sleep(1)\n"
        "distributed.destroy_process_group()\n"
    )
    arguments = ("-n1", "-r1", statement)
    name = "group" if killed is None else f"group-without-{killed}"
    spec = JobSpec(name=name, run="test", module="timeit", arguments=arguments, processes=4)
    seen: list[str] = []
    problems: list[BaseException] = []

    def run() -> None:
        try:
            changes = {"image": TRAIN_IMAGE, "nodes": 2, "retries": 2, "memory": "2Gi", "cpu": "200m"}
            launch(spec, on_line=seen.append, **changes)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: any(line.startswith("step 3") for line in seen) or problems, within_s=300)
    if killed is not None:
        pod = f"{job_name(spec)}-worker-{killed}"
        kubectl("delete", "pod", pod, "-n", profile.namespace, "--wait=false", "--grace-period=2")
    thread.join(300)
    assert not thread.is_alive()
    assert not problems, problems
    begun = [line for line in seen if line.startswith("rank 0")]
    assert begun == [f"rank 0 of 4 {job_name(spec)}-worker-0"] * (1 if killed is None else 2), seen
    assert [line for line in seen if line.startswith("step")][-1].startswith("step 14 ")
