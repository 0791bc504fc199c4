"""Tests of pod security, resources and probes of every pod, and of checkov's findings."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llava_av.launch import CA_FOLDER, TRUST_VARIABLES
from tests.charts.chart import PROFILES, containers, pod_specs, render, template, variables

# Reasons for ignored checks; checkov's other checks for Kubernetes must pass.
EXCEPTIONS = {
    "CKV_K8S_11": "a CPU limit would throttle pods on idle nodes; requests are set",
    "CKV_K8S_35": "the servers read passwords only from variables",
    "CKV_K8S_38": "tokens are mounted only in pods that call the API server (test below)",
    "CKV_K8S_40": "user IDs below 10000 own the images' files",
    "CKV_K8S_43": "digests are values; the profiles use tags",
    "CKV_K8S_15": "IfNotPresent is a value, and correct for images with digests",
    "CKV_K8S_8": "jobs need no liveness probe",
    "CKV_K8S_9": "jobs need no readiness probe",
}
CALLS_THE_API_SERVER = {"secrets", "test-training-job", "reaper", "training-operator"}


BACKUP = {"endpoint": "https://s3.example.org", "bucket": "saved", "existingSecret": "keys"}
OPTIONAL_PARTS = {
    "pipelines": {"endpoint": "http://ml-pipeline:8888"},
    "s3": {"flavour": "seaweedfs"},
    "trainingOperator": {"enabled": True},
    "backup": {"enabled": True, **BACKUP},
    "serving": {"enabled": True, "model": "models:/words@champion", "kserve": {"enabled": True}},
}


def specs() -> list[Any]:
    """Return the pods of every profile and of the parts that no profile enables."""
    renderings = [render(profile=name) for name in PROFILES] + [render(OPTIONAL_PARTS)]
    return [one for found in renderings for one in pod_specs(found)]


def test_every_pod_is_restricted() -> None:
    for where, spec, _ in specs():
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"], where
        assert pod["runAsUser"] > 0, where
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), where
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume], where
        for container in containers(spec):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], where
            assert context["allowPrivilegeEscalation"] is False, where
            assert context["capabilities"] == {"drop": ["ALL"]}, where


def test_every_container_has_requests_and_a_memory_limit() -> None:
    for where, spec, _ in specs():
        for container in containers(spec):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), where
            assert "memory" in container["resources"]["limits"], where
        for volume in spec["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], where


def test_every_server_is_probed() -> None:
    for where, spec, _ in specs():
        if where.split()[0] in ("Deployment", "StatefulSet", "InferenceService"):
            assert {"readinessProbe", "livenessProbe"} <= set(spec["containers"][0]), where


def test_tokens_are_mounted_only_in_pods_that_call_the_api_server() -> None:
    for where, spec, labels in specs():
        named = {labels.get("llava-av/step"), where.partition(" llava-av-")[2]}
        assert spec["automountServiceAccountToken"] == bool(named & CALLS_THE_API_SERVER), where


def test_no_password_is_in_arguments() -> None:
    for where, spec, _ in specs():
        for container in containers(spec):
            words = " ".join([*container.get("command", []), *container.get("args", [])])
            assert "PASSWORD)" not in words, where
            assert "SECRET_ACCESS_KEY)" not in words, where


def test_trust_variables_are_those_of_jobs() -> None:
    expected = dict.fromkeys(TRUST_VARIABLES, f"{CA_FOLDER}/ca.crt")
    with_trust = 0
    for where, spec, _ in pod_specs(render({**OPTIONAL_PARTS, "caConfigMap": "company-ca"})):
        for container in containers(spec):
            trusted = {
                key: value for key, value in variables(container).items() if value in expected.values()
            }
            assert trusted in ({}, expected), where
            with_trust += bool(trusted)
    assert with_trust >= 6


def test_checkov_finds_only_the_documented_exceptions(tmp_path: Path) -> None:
    program = shutil.which("checkov")
    if program is None:
        pytest.fail("checkov is not on the PATH; .ci/charts installs it")
    # `kind` differs from `small` only in sizes and a moving tag.
    for profile in ("small", "production", "serving"):
        (tmp_path / f"{profile}.yaml").write_text(template(profile=profile))
    options = ["--framework", "kubernetes", "--compact", "--quiet", "--output", "json", "--skip-download"]
    done = subprocess.run([program, "-d", str(tmp_path), *options], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["summary"]["resource_count"] > 60, found["summary"]
    failed: dict[str, set[str]] = {}
    for one in found["results"]["failed_checks"]:
        failed.setdefault(one["check_id"], set()).add(f"{one['check_name']}: {one['resource']}")
    assert not {key: where for key, where in failed.items() if key not in EXCEPTIONS}
    assert set(failed) == set(EXCEPTIONS), "an exception is no longer needed"
