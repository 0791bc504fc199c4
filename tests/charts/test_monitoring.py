"""What the chart tells Prometheus: rendered by helm, its alerts tested by Prometheus' own tool."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llava_av.launch import JobSpec, load_profile
from llava_av.launch.pytorchjob import build_job
from tests.commands import ROOT
from tests.unit.test_monitoring import expressions

CHART = ROOT / "helm" / "llava-av"
ON: dict[str, Any] = {"monitoring": {"enabled": True, "labels": {"release": "prometheus"}}}
OPERATOR = "monitoring.coreos.com/v1"


def program(name: str) -> str:
    if shutil.which(name) is None:
        pytest.fail(f"{name} is not on the PATH; .ci/charts installs it")
    return name


def template(values: dict[str, Any], *options: str) -> "subprocess.CompletedProcess[str]":
    command = [program("helm"), "template", "llava-av", str(CHART), "-n", "team", "-f", "-", *options]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True)


def render(values: dict[str, Any], *options: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Objects by kind and name."""
    done = template(values, *options)
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.fixture(scope="module")
def watched() -> dict[tuple[str, str], dict[str, Any]]:
    return render(ON, "--api-versions", OPERATOR)


def test_alerts_fire_when_they_should(watched: Any, tmp_path: Path) -> None:
    rules = watched["PrometheusRule", "llava-av-alerts"]["spec"]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules))
    shutil.copy(Path(__file__).parent / "alerts.test.yaml", tmp_path)
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        done = subprocess.run(
            [program("promtool"), *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)", (tmp_path / "alerts.test.yaml").read_text()))
    assert tested == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


def test_queries_of_the_dashboard_are_promql(watched: Any, tmp_path: Path) -> None:
    made = json.loads(watched["ConfigMap", "llava-av-dashboard"]["data"]["llava-av.json"])
    queries = [target["expr"] for panel in made["panels"] for target in panel["targets"]]
    assert queries
    assert set(queries) <= set(expressions().values())
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run(
        [program("promtool"), "check", "rules", "queries.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_monitors_find_what_answers(watched: Any) -> None:
    spec = JobSpec(name="training", module="llava_av.training", processes=2)
    [replica] = build_job(spec, load_profile("cpu"))["spec"]["pytorchReplicaSpecs"].values()
    [jobs] = watched["PodMonitor", "llava-av-jobs"]["spec"]["podMetricsEndpoints"]
    selector = watched["PodMonitor", "llava-av-jobs"]["spec"]["selector"]["matchLabels"]
    # The operator adds its own label to each pod.
    assert (
        selector.items()
        <= {
            **replica["template"]["metadata"]["labels"],
            "training.kubeflow.org/replica-index": "0",
        }.items()
    )
    assert jobs["port"] in {port["name"] for port in replica["template"]["spec"]["containers"][0]["ports"]}
    for part in ("mlflow", "s3"):
        monitor = watched["ServiceMonitor", f"llava-av-{part}"]
        service = watched["Service", f"llava-av-{part}"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        [endpoint] = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_prometheus_has_an_mlflow_user_of_its_own(watched: Any) -> None:
    [endpoint] = watched["ServiceMonitor", "llava-av-mlflow"]["spec"]["endpoints"]
    [plan] = [
        json.loads(job["spec"]["template"]["spec"]["containers"][0]["args"][0])
        for (kind, name), job in watched.items()
        if kind == "Job" and "-secrets-" in name
    ]
    for secret in endpoint["basicAuth"].values():
        assert secret["key"] in plan[secret["name"]]
    without = render(
        {"monitoring": {"enabled": True}, "mlflow": {"auth": {"enabled": False}}}, "-a", OPERATOR
    )
    assert "basicAuth" not in without["ServiceMonitor", "llava-av-mlflow"]["spec"]["endpoints"][0]


def test_without_monitoring_nothing_answers_and_nobody_is_let_in() -> None:
    off = render({})
    assert not [name for kind, name in off if "metrics" in name or kind.endswith("Monitor")]
    text = template({}).stdout
    assert "--expose-prometheus" not in text
    assert "MINIO_PROMETHEUS_AUTH_TYPE" not in text


def test_without_the_operator_servers_answer_all_the_same() -> None:
    found = render({"monitoring": {"enabled": True, "operator": False, "namespace": "watch"}})
    assert not [name for kind, name in found if kind.endswith("Monitor") or kind == "PrometheusRule"]
    [mlflow] = found["Deployment", "llava-av-mlflow"]["spec"]["template"]["spec"]["containers"]
    assert "--expose-prometheus=/tmp/prometheus" in mlflow["args"]
    [hosts] = [argument for argument in mlflow["args"] if argument.startswith("--allowed-hosts=")]
    assert "$(POD_IP):5000" in hosts
    for part in ("jobs", "mlflow", "s3"):
        [rule] = found["NetworkPolicy", f"llava-av-{part}-metrics"]["spec"]["ingress"]
        [peer] = rule["from"]
        assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watch"}}}


def test_an_operator_that_is_not_there_is_said_at_once() -> None:
    done = template(ON)
    assert done.returncode != 0
    assert "monitoring.operator needs the Prometheus operator" in done.stderr
