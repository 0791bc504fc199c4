"""Functions that render the chart with `helm template` and read the rendered objects."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import yaml

from tests.commands import ROOT

CHART = ROOT / "helm" / "llava-av"
GOLDEN = ROOT / "tests" / "charts" / "golden"
PROFILES = {
    "kind": CHART / "ci" / "kind-values.yaml",
    "small": CHART / "profiles" / "small.yaml",
    "production": CHART / "profiles" / "production.yaml",
    "serving": CHART / "profiles" / "serving.yaml",
}
# Values that profiles with required digests also need.
DIGESTS = ROOT / "tests" / "charts" / "digests.yaml"
KUBERNETES = "1.34.0"

Object = dict[str, Any]
# The chart renders thousands of lines of YAML; the C parser is ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Rejected(Exception):
    """Error of helm about values that it rejects."""


def template(
    values: Mapping[str, Any] | None = None,
    *,
    profile: str | None = None,
    release: str = "llava-av",
    namespace: str = "llava-av",
    program: str = "helm",
    options: tuple[str, ...] = (),
) -> str:
    """Return the output of `helm template`; `values` override those of a profile.

    Raises:
        Rejected: If helm fails.
    """
    below = () if profile is None else ("-f", str(PROFILES[profile]))
    below += ("-f", str(DIGESTS)) if profile == "production" else ()
    command = (program, "template", release, str(CHART), "-n", namespace, "--kube-version", KUBERNETES)
    return _output((*command, *below, *options, "-f", "-"), json.dumps(dict(values or {})))


def notes(values: Mapping[str, Any]) -> str:
    """Return what `helm install` prints about the release."""
    command = ("helm", "install", "llava-av", str(CHART), "-n", "llava-av", "--dry-run=client", "-f", "-")
    return _output(command, json.dumps(dict(values))).partition("\nNOTES:\n")[2]


@cache
def _output(command: tuple[str, ...], given: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.fail(f"{command[0]} is not on the PATH; .ci/charts installs it")
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode:
        raise Rejected(done.stderr)
    return done.stdout


def objects(text: str) -> list[Object]:
    """Parse rendered objects."""
    return [found for found in yaml.load_all(text, _Loader) if found]


def render(values: Mapping[str, Any] | None = None, **options: Any) -> list[Object]:
    """Return the objects that the chart renders."""
    return objects(template(values, **options))


def named(found: list[Object], kind: str, name: str) -> Object:
    """Return the object of this kind and name."""
    (one,) = [each for each in found if each["kind"] == kind and each["metadata"]["name"] == name]
    return one


def names(found: list[Object], kind: str) -> set[str]:
    """Return the names of the objects of a kind."""
    return {each["metadata"]["name"] for each in found if each["kind"] == kind}


def pod_specs(found: list[Object]) -> Iterator[tuple[str, Object, dict[str, str]]]:
    """Yield kind and name of each object with pods, the pods' spec and their labels."""
    for one in found:
        where = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield where, one["spec"], one["metadata"]["labels"]
        elif one["kind"] == "CronJob":
            template = one["spec"]["jobTemplate"]["spec"]["template"]
            yield where, template["spec"], template["metadata"]["labels"]
        elif one["kind"] in ("Deployment", "StatefulSet", "Job", "DaemonSet"):
            yield where, one["spec"]["template"]["spec"], one["spec"]["template"]["metadata"]["labels"]
        elif one["kind"] == "InferenceService":
            yield where, one["spec"]["predictor"], one["spec"]["predictor"]["labels"]


def containers(spec: Object) -> list[Object]:
    """Return all containers of a pod."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def variables(container: Object) -> dict[str, Any]:
    """Return a container's variables by name: the value, or its source."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", [])}
