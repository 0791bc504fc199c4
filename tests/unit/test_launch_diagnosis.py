"""Causes of pods that do not run, from recorded statuses and events."""

import re
from typing import Any

import pytest

from llava_av.launch.kubernetes.diagnosis import (
    Ended,
    ended_containers,
    ending_cause,
    events_problem,
    never_fits,
    pod_problem,
)


def pod(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "pytorch", "resources": {"limits": {"memory": "1Gi"}, "requests": {}}}
    return {
        "metadata": {"name": "job-worker-1", "uid": "u"},
        "spec": {"containers": [container], **spec},
        "status": status or {},
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    one = {"name": "pytorch", "image": "some/image:1", "restartCount": 0, "state": state, "lastState": {}}
    return pod({"containerStatuses": [one]})


def unscheduled(message: str) -> dict[str, Any]:
    return pod({"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]})


@pytest.mark.parametrize(
    ("given", "text", "lasting"),
    [
        (waiting("ErrImagePull", "x: not found"), "image some/image:1 .* has no such image", True),
        (waiting("ErrImagePull", "pull access denied"), "check image_pull_secrets", True),
        (waiting("InvalidImageName", "couldn't parse"), "not a valid image reference", True),
        (waiting("ImagePullBackOff", "dial tcp: i/o timeout"), "cannot be pulled yet: dial tcp", False),
        (waiting("CreateContainerConfigError", 'secret "s" not found'), "Secret 's' does not exist", True),
        (
            waiting("CreateContainerConfigError", 'configmap "c" not found'),
            "ConfigMap 'c' does not exist",
            True,
        ),
        (
            waiting("CreateContainerConfigError", "couldn't find key k in Secret ns/s"),
            "key k is missing in Secret ns/s",
            True,
        ),
        (waiting("CreateContainerError", "out of pids"), "cannot be created .*: out of pids", False),
        (
            unscheduled("0/1 nodes are available: 1 Insufficient cpu."),
            "no node has free capacity .*: 0/1",
            False,
        ),
        (unscheduled('persistentvolumeclaim "w" not found'), "volume claim 'w' does not exist", True),
    ],
)
def test_problem_of_a_pod(given: dict[str, Any], text: str, lasting: bool) -> None:
    problem = pod_problem(given)
    assert problem is not None
    assert re.search(text, problem.text)
    assert problem.lasting == lasting


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing", "CrashLoopBackOff"])
def test_what_passes_by_itself_is_no_problem(reason: str) -> None:
    assert pod_problem(waiting(reason)) is None


def event(reason: str, message: str, at: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {"reason": reason, "message": message, "lastTimestamp": at, "metadata": {}}


@pytest.mark.parametrize(
    ("message", "lasting"),
    [
        ('Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest"', True),
        ('Error creating: pods "x" is forbidden: exceeded quota: team', False),
    ],
)
def test_refused_pods_are_quoted(message: str, lasting: bool) -> None:
    problem = events_problem([event("SuccessfulCreateService", "x"), event("FailedCreatePod", message)])
    assert problem is not None
    assert problem.text.startswith('the cluster rejects its pods: pods "x" is forbidden')
    assert problem.lasting == lasting


def test_unmounted_volume_names_what_is_missing() -> None:
    message = 'MountVolume.SetUp failed for volume "ca" : configmap "authorities" not found'
    problem = events_problem([event("FailedMount", message)])
    assert problem is not None
    assert (problem.lasting, "ConfigMap 'authorities'" in problem.text) == (True, True)


@pytest.mark.parametrize(
    "harmless",
    [event("Pulled", "x"), event("FailedCreatePod", "already exists"), event("FailedMount", "busy")],
)
def test_other_events_are_no_problem(harmless: dict[str, Any]) -> None:
    assert events_problem([harmless]) is None


def node(labels: dict[str, str] | None = None, **allocatable: str) -> dict[str, Any]:
    offers = {"cpu": "8", "memory": "32Gi", **{name.replace("_", "/"): n for name, n in allocatable.items()}}
    return {"metadata": {"labels": labels or {}}, "status": {"allocatable": offers}}


@pytest.mark.parametrize(
    ("requests", "selector", "said"),
    [
        ({"cpu": "8"}, {}, None),
        ({"cpu": "8", "gpu": "2"}, {"zone": "b"}, None),
        ({"cpu": "9"}, {}, "it requests cpu 9, and no node has more than 8"),
        ({"memory": "33Gi"}, {}, "it requests memory 33Gi, and no node has more than 32Gi"),
        ({"gpu": "4"}, {}, "it requests gpu 4, and no node has more than 2"),
        ({"gpu": "1"}, {"zone": "a"}, "it requests gpu 1, and no node has more than 0"),
        ({"gpu": "2", "rdma": "1"}, {}, "no single node has all that it requests (gpu 2, rdma 1)"),
        ({"cpu": "1"}, {"zone": "c"}, "no node has the labels zone=c"),
    ],
)
def test_pod_that_never_fits(requests: dict[str, str], selector: dict[str, str], said: str | None) -> None:
    nodes = [node({"zone": "a"}, rdma="1"), node({"zone": "b"}, gpu="2")]
    asked = pod(nodeSelector=selector)
    asked["spec"]["containers"][0]["resources"]["requests"] = requests
    assert never_fits(asked, nodes) == said


def test_ends_of_both_instances_are_found() -> None:
    one = {
        "name": "pytorch",
        "restartCount": 2,
        "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "error: bad"}},
    }
    ends = ended_containers(pod({"containerStatuses": [one]}))
    assert [(end.key[2], end.exit_code, end.reason, end.message) for end in ends] == [
        (1, 1, "Error", "error: bad"),
        (2, 137, "OOMKilled", ""),
    ]


def test_good_end_is_no_failure() -> None:
    one = {"name": "pytorch", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}, "lastState": {}}
    assert ended_containers(pod({"containerStatuses": [one]})) == []


NCCL = (
    "[rank3]:[E1122 ProcessGroupNCCL.cpp:685] [Rank 3] Watchdog caught collective operation timeout:"
    " WorkNCCL(SeqNum=9, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600010 ms"
)


@pytest.mark.parametrize(
    ("reason", "code", "message", "lines", "cause"),
    [
        (
            "OOMKilled",
            137,
            "",
            ["error: x"],
            r"ran out of memory \(OOMKilled, limit 1Gi\)",
        ),
        ("Error", 1, "", ["[rank1]: error: no clip"], "^no clip$"),
        ("Error", 1, "error: no clip", [], "^no clip$"),
        (
            "Error",
            1,
            "error: store is gone",
            ["resumes from step 40", "error: disk is full"],
            "^disk is full$",
        ),
        (
            "Error",
            1,
            "",
            [NCCL, "RuntimeError: aborted"],
            "^NCCL timeout: ALLREDUCE of rank 3 had no .* 600 s",
        ),
        ("Error", 1, "", ["KeyError: 'x'"], r"^KeyError: 'x' \(exit code 1 of pod job-worker-1\)$"),
        ("Error", 7, "", [], "^it ended with exit code 7: it wrote no output$"),
    ],
)
def test_cause_of_an_end(reason: str, code: int, message: str, lines: list[str], cause: str) -> None:
    key = ("u", "pytorch", 0)
    end = Ended(pod="job-worker-1", key=key, exit_code=code, reason=reason, message=message, memory="1Gi")
    assert re.search(cause, ending_cause(end, lines))


def test_eviction_is_quoted() -> None:
    evicted = pod({"reason": "Evicted", "message": "Usage of EmptyDir volume work exceeds the limit 4Gi. "})
    assert ending_cause(None, [], evicted) == (
        "pod job-worker-1 was evicted: Usage of EmptyDir volume work exceeds the limit 4Gi"
    )
