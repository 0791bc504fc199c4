"""Every pod under the restricted standard with what keeps a cluster healthy, and checkov's opinion of it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.charts.chart import PROFILES, containers, pod_specs, render, template

# Each with its reason; checkov's other checks of Kubernetes have to pass.
EXCEPTIONS = {
    "CKV_K8S_11": "a limit of CPU only slows down what has an idle node; requests are set",
    "CKV_K8S_35": "the servers read passwords from variables alone",
    "CKV_K8S_38": "tokens are mounted where a pod asks the API server, and nowhere else (test below)",
    "CKV_K8S_40": "user ids below 10000 are those that the images' files belong to",
    "CKV_K8S_43": "digests are given by values; tags stand in the profiles",
    "CKV_K8S_15": "IfNotPresent is a value, and right for images by digest",
    "CKV_K8S_8": "a job that ends has no liveness",
    "CKV_K8S_9": "a job that ends has no readiness",
}
ASKS_THE_API_SERVER = {"secrets", "test-training-job", "reaper", "training-operator"}


def specs() -> list[Any]:
    """The pods of every profile, and of the parts that no profile has."""
    backup = {"endpoint": "https://s3.example.org", "bucket": "saved", "existingSecret": "keys"}
    values = {
        "pipelines": {"endpoint": "http://ml-pipeline:8888"},
        "s3": {"flavour": "seaweedfs"},
        "trainingOperator": {"enabled": True},
        "backup": {"enabled": True, **backup},
    }
    renderings = [render(profile=name) for name in PROFILES] + [render(values)]
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


def test_every_container_has_requests_and_a_limit_of_memory() -> None:
    for where, spec, _ in specs():
        for container in containers(spec):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), where
            assert "memory" in container["resources"]["limits"], where
        for volume in spec["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], where


def test_every_server_is_probed() -> None:
    for where, spec, _ in specs():
        if where.split()[0] in ("Deployment", "StatefulSet"):
            assert {"readinessProbe", "livenessProbe"} <= set(spec["containers"][0]), where


def test_tokens_are_mounted_where_the_api_server_is_asked() -> None:
    for where, spec, labels in specs():
        named = {labels.get("llava-av/step"), where.partition(" llava-av-")[2]}
        assert spec["automountServiceAccountToken"] == bool(named & ASKS_THE_API_SERVER), where


def test_no_password_is_in_arguments() -> None:
    for where, spec, _ in specs():
        for container in containers(spec):
            words = " ".join([*container.get("command", []), *container.get("args", [])])
            assert "PASSWORD)" not in words, where
            assert "SECRET_ACCESS_KEY)" not in words, where


def test_checkov_finds_the_explained_exceptions_and_nothing_else(tmp_path: Path) -> None:
    program = shutil.which("checkov")
    if program is None:
        pytest.fail("checkov is not on the PATH; .ci/charts installs it")
    for profile in ("small", "production"):  # `kind` differs from `small` in sizes and a tag that moves
        (tmp_path / f"{profile}.yaml").write_text(template(profile=profile))
    options = ["--framework", "kubernetes", "--compact", "--quiet", "--output", "json", "--skip-download"]
    done = subprocess.run([program, "-d", str(tmp_path), *options], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["summary"]["resource_count"] > 60, found["summary"]
    failed: dict[str, set[str]] = {}
    for one in found["results"]["failed_checks"]:
        failed.setdefault(one["check_id"], set()).add(f"{one['check_name']}: {one['resource']}")
    assert not {key: where for key, where in failed.items() if key not in EXCEPTIONS}
    assert set(failed) == set(EXCEPTIONS), "an exception that nothing needs any more"
