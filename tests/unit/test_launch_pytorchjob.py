"""PyTorchJobs as built: golden manifests, and what holds for every job and profile.

`LLAVA_AV_UPDATE_GOLDEN=1 pytest tests/unit/test_launch_pytorchjob.py` writes the golden files anew.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.launch import JobProfile, JobSpec, LaunchError, load_profile
from llava_av.launch.kubernetes.manifest_text import manifest_yaml
from llava_av.launch.kubernetes.pytorchjob import CONTENT_LABEL, build_job, job_name, leader_pod
from llava_av.processes.variables import DATA_CACHE_VARIABLE
from llava_av.workflows.ingest.launching import ingest_spec
from llava_av.workflows.ingest.request import CommitRequest
from llava_av.workflows.runtime.job_target import JobTarget
from llava_av.workflows.runtime.workspace import Workspace

GOLDEN = Path(__file__).parent / "golden"
TRAINING = JobSpec(
    name="training",
    module="llava_av.training",
    arguments=("--run", "0123456789abcdef", "--work", "/work"),
    run="0123456789abcdef",
)
FULL = JobProfile(
    image="registry.example/llava-av-train@sha256:0123",
    namespace="team",
    nodes=2,
    gpus_per_node=4,
    cpu="16",
    memory="256Gi",
    extra_resources={"rdma/hca": "1"},
    node_selector={"gpu": "h100"},
    tolerations=({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},),  # type: ignore[arg-type]
    topology_spread_key="topology.kubernetes.io/zone",
    priority_class="high",
    queue="research",
    image_pull_secrets=("registry",),
    service_account="trainer",
    ca_config_map="authorities",
    work_claim="work",
    cache_claim="weights",
    environment={"NCCL_DEBUG": "INFO", "NCCL_SOCKET_IFNAME": "ib0", "A": "$(HOME)"},
    hub_offline=False,
    retries=0,
)


def spec(processes: int | None, **changes: Any) -> JobSpec:
    return JobSpec(**{**vars(TRAINING), "processes": processes, **changes})


CASES = {
    "cpu-plain": (spec(None, name="evaluation", module="llava_av.evaluation"), load_profile("cpu")),
    "cpu-group": (spec(2, prepare=("python", "-m", "llava_av", "open-run")), load_profile("cpu")),
    "gpu-8": (spec(8), load_profile("gpu-8")),
    "gpu-4x8": (spec(32), load_profile("gpu-4x8")),
    "session": (
        spec(2, prepare=("python", "-m", "llava_av", "open-run"), arguments=("--run", "@/work/run")),
        load_profile("cpu", {"session_credentials": True}),
    ),
    "ingest": (
        ingest_spec(
            Workspace(folder=Path("/out")),
            CommitRequest(source="s3://raw/clips", held_out_share=0.1, max_bad_share=0.05, author="Ada"),
            JobTarget(launcher="kubernetes", profile=load_profile("cpu")),
            processes=2,
        ),
        load_profile("cpu"),
    ),
    "every-field": (spec(8, arguments=("--text", "$(HOME)")), FULL),
}


@pytest.mark.parametrize("case", CASES)
def test_manifest_is_the_golden_one(case: str) -> None:
    job, profile = CASES[case]
    text = manifest_yaml([build_job(job, profile)], width=100)
    file = GOLDEN / f"pytorchjob-{case}.yaml"
    if os.environ.get("LLAVA_AV_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


quantities = st.sampled_from(["1", "500m", "3", "64"])
profiles = st.builds(
    JobProfile,
    image=st.just("x"),
    nodes=st.integers(1, 5),
    gpus_per_node=st.integers(0, 8),
    cpu=quantities,
    retries=st.integers(0, 4),
    work_claim=st.none() | st.just("work"),
    cache_claim=st.none() | st.just("cache"),
    ca_config_map=st.none() | st.just("ca"),
    session_credentials=st.booleans(),
    environment=st.dictionaries(st.sampled_from(["A", "HOME2"]), st.text(max_size=5)),
)


def built(
    profile: JobProfile, *, group: bool, prepare: tuple[str, ...] = ()
) -> tuple[JobSpec, dict[str, Any]]:
    processes = profile.nodes * (profile.gpus_per_node or 2) if group else None
    job = spec(processes, prepare=prepare)
    return job, build_job(job, profile)


@given(profiles, st.booleans(), st.sampled_from([(), ("python", "-V")]))
def test_pods_are_restricted_and_write_to_sized_volumes_only(
    profile: JobProfile, group: bool, prepare: tuple[str, ...]
) -> None:
    _, job = built(profile, group=group, prepare=prepare)
    [replica] = job["spec"]["pytorchReplicaSpecs"].values()
    pod = replica["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert all("sizeLimit" in one["emptyDir"] for one in pod["volumes"] if "emptyDir" in one)
    containers = [*pod["containers"], *pod.get("initContainers", [])]
    assert len(containers) == 1 + bool(prepare) + profile.session_credentials
    for container in containers:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
        unused = {"session"} if container["name"] == "prepare" else set()
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            one["name"] for one in pod["volumes"]
        } - unused
        variables = {one["name"]: one.get("value", "") for one in container["env"]}
        folders = [
            name for name in variables if re.search(r"(HOME|_DIR|CACHE_PATH|TMPDIR|MPLCONFIGDIR)$", name)
        ]
        assert len(folders) >= 10
        assert all(any(variables[name].startswith(path) for path in mounted) for name in folders)


@given(profiles, st.booleans(), st.sampled_from([(), ("python", "-V")]))
def test_a_session_keeps_the_keys_of_the_secret_from_the_job(
    profile: JobProfile, group: bool, prepare: tuple[str, ...]
) -> None:
    job, manifest = built(profile, group=group, prepare=prepare)
    [replica] = manifest["spec"]["pytorchReplicaSpecs"].values()
    pod = replica["template"]["spec"]
    [container] = pod["containers"]
    first = pod.get("initContainers", [])
    secret = {"secretRef": {"name": "llava-av-credentials"}}
    assert all(secret in one["envFrom"] for one in first)
    assert (secret in container["envFrom"]) != profile.session_credentials
    named = {one["name"]: one.get("valueFrom", {}).get("secretKeyRef") for one in container["env"]}
    login = {name: source["key"] for name, source in named.items() if source}
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    assert login == ({name: name for name in names} if profile.session_credentials else {})
    if not profile.session_credentials:
        return
    session = first[-1]
    assert session["name"] == "session"
    command = ["python", "-m", "llava_av.launch.session_keys", *job.arguments]
    lasts = ["--seconds", str(profile.deadline_s + profile.grace_s)]
    [mount] = [one for one in session["volumeMounts"] if one["name"] == "session"]
    assert session["command"] == [*command, "--file", f"{mount['mountPath']}/credentials", *lasts]
    [volume] = [one for one in pod["volumes"] if one["name"] == "session"]
    assert volume["emptyDir"]["medium"] == "Memory"
    assert {**mount, "readOnly": True} in container["volumeMounts"]
    file = {"name": "AWS_SHARED_CREDENTIALS_FILE", "value": f"{mount['mountPath']}/credentials"}
    assert file in container["env"]
    for one in first:
        # Python would take modules from the folder that the job writes to.
        assert {"name": "PYTHONSAFEPATH", "value": "1"} in one["env"]


@given(profiles)
def test_world_size_is_what_was_asked_for(profile: JobProfile) -> None:
    job, manifest = built(profile, group=True)
    [(kind, replica)] = manifest["spec"]["pytorchReplicaSpecs"].items()
    assert kind == "Worker"  # a Master would bring an init container that restricted namespaces refuse
    assert replica["replicas"] * int(manifest["spec"]["nprocPerNode"]) == job.processes
    [container] = replica["template"]["spec"]["containers"]
    assert container["name"] == "pytorch"
    gpus = container["resources"]["limits"].get("nvidia.com/gpu", "0")
    assert int(gpus) * replica["replicas"] in (0, job.processes)
    [endpoint] = [one["value"] for one in container["env"] if one["name"] == "PET_RDZV_ENDPOINT"]
    assert endpoint == f"{leader_pod(job, job_name(job))}:23456"
    assert len(endpoint.partition(":")[0]) <= 63


@given(profiles)
def test_failures_are_retried_as_often_as_the_profile_says(profile: JobProfile) -> None:
    _, manifest = built(profile, group=True)
    [replica] = manifest["spec"]["pytorchReplicaSpecs"].values()
    assert replica["restartPolicy"] == ("OnFailure" if profile.retries else "Never")
    if profile.retries:
        # The operator fails a job whose restarts, over all pods, reach the limit.
        assert profile.retries * profile.nodes < manifest["spec"]["runPolicy"]["backoffLimit"]


@given(profiles, profiles, st.sampled_from(["a", "b"]), st.sampled_from(["a", "b"]))
def test_name_follows_the_job_and_the_label_its_whole_content(
    one: JobProfile, other: JobProfile, run: str, other_run: str
) -> None:
    first, second = spec(None, run=run), spec(None, run=other_run)
    assert (job_name(first) == job_name(second)) == (run == other_run)
    labels = [
        build_job(job, profile)["metadata"]["labels"][CONTENT_LABEL]
        for job, profile in ((first, one), (first, one), (second, other))
    ]
    assert labels[0] == labels[1]
    manifests = [build_job(first, one), build_job(second, other)]
    assert (labels[0] == labels[2]) == (manifests[0] == manifests[1])


@pytest.mark.parametrize(
    ("processes", "changes", "said"),
    [
        (3, {"nodes": 2}, r"processes=3 must be a multiple of .*nodes=2"),
        (1, {"nodes": 2}, r"processes=1 must be a multiple of .*nodes=2"),
        (
            2,
            {"gpus_per_node": 8},
            r"is 2 per node, but gpus_per_node=8 .* set processes=8 or gpus_per_node=2",
        ),
    ],
)
def test_processes_have_to_fit_the_nodes(processes: int, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(LaunchError, match=said):
        build_job(spec(processes), JobProfile(image="x", **changes))


@pytest.mark.parametrize("name", ["", "Training", "1st", "a_b", "x" * 60, "ü"])
def test_names_that_a_cluster_refuses_are_refused_before(name: str) -> None:
    with pytest.raises(LaunchError, match="job name"):
        job_name(spec(None, name=name))


def test_further_labels_reach_job_and_pods() -> None:
    job = build_job(TRAINING, load_profile("cpu"), labels={"pipeline/runid": "7"})
    # They say who made it: whoever else asks for the same adopts it.
    plain = build_job(TRAINING, load_profile("cpu"))["metadata"]["labels"]
    assert job["metadata"]["labels"][CONTENT_LABEL] == plain[CONTENT_LABEL]
    [replica] = job["spec"]["pytorchReplicaSpecs"].values()
    for metadata in (job["metadata"], replica["template"]["metadata"]):
        assert metadata["labels"]["pipeline/runid"] == "7"


@pytest.mark.parametrize("text", ["3006e27", "1E5", "12.5e-3", ".5e3", "0o17", "yes", "12", "null"])
def test_strings_that_look_like_numbers_are_quoted(text: str) -> None:
    assert manifest_yaml([{"value": text, "name": "plain1e"}]) == f"value: '{text}'\nname: plain1e\n"


@pytest.mark.parametrize(
    ("changes", "megabytes"),
    [
        ({"work_size": "4Gi"}, "2147"),
        ({"work_size": "500Gi"}, "8000"),
        ({"work_size": "4Gi", "environment": {DATA_CACHE_VARIABLE: "3000"}}, "3000"),
        ({"work_claim": "disk"}, None),
    ],
)
def test_the_data_cache_takes_at_most_half_of_the_work_volume(
    changes: dict[str, Any], megabytes: str | None
) -> None:
    _, job = built(JobProfile(image="x", **changes), group=True)
    [replica] = job["spec"]["pytorchReplicaSpecs"].values()
    [container] = replica["template"]["spec"]["containers"]
    values = {one["name"]: one.get("value") for one in container["env"]}
    assert values.get(DATA_CACHE_VARIABLE) == megabytes
