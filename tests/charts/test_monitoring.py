"""Tests of monitors, alerts and dashboard: rendered by helm, checked by promtool."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llava_av.launch import JobSpec, load_profile
from llava_av.launch.kubernetes.pytorchjob import build_job
from tests.charts.chart import Object, Rejected, containers, named, names, render, template
from tests.unit.test_monitoring import expressions

ON: dict[str, Any] = {
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
    "serving": {"enabled": True, "model": "models:/words@champion"},
}
OPERATOR = ("--api-versions", "monitoring.coreos.com/v1")


def promtool(folder: Path, *arguments: str) -> None:
    if shutil.which("promtool") is None:
        pytest.fail("promtool is not on the PATH; .ci/charts installs it")
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def watched() -> list[Object]:
    return render(ON, options=OPERATOR, namespace="team")


def test_alerts_fire_as_expected(watched: list[Object], tmp_path: Path) -> None:
    rules = named(watched, "PrometheusRule", "llava-av-alerts")["spec"]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules))
    shutil.copy(Path(__file__).parent / "alerts.test.yaml", tmp_path)
    promtool(tmp_path, "check", "rules", "alerts.yaml")
    promtool(tmp_path, "test", "rules", "alerts.test.yaml")
    tested = set(re.findall(r"alertname: (\w+)", (tmp_path / "alerts.test.yaml").read_text()))
    assert tested == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


def test_queries_of_the_dashboard_are_promql(watched: list[Object], tmp_path: Path) -> None:
    made = json.loads(named(watched, "ConfigMap", "llava-av-dashboard")["data"]["llava-av.json"])
    queries = [target["expr"] for panel in made["panels"] for target in panel["targets"]]
    assert queries
    assert set(queries) <= set(expressions().values())
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    promtool(tmp_path, "check", "rules", "queries.yaml")


def test_monitors_select_pods_and_services(watched: list[Object]) -> None:
    spec = JobSpec(name="training", module="llava_av.training", processes=2)
    [replica] = build_job(spec, load_profile("cpu"))["spec"]["pytorchReplicaSpecs"].values()
    jobs = named(watched, "PodMonitor", "llava-av-jobs")["spec"]
    # The training operator adds this label to each pod.
    labels = {**replica["template"]["metadata"]["labels"], "training.kubeflow.org/replica-index": "0"}
    assert jobs["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"] for port in replica["template"]["spec"]["containers"][0]["ports"]}
    assert {one["port"] for one in jobs["podMetricsEndpoints"]} <= ports
    storage, service = (
        named(watched, "ServiceMonitor", "llava-av-s3"),
        named(watched, "Service", "llava-av-s3"),
    )
    assert storage["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    [endpoint] = storage["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert storage["metadata"]["labels"]["release"] == "prometheus"
    for part in ("mlflow", "serving"):
        template = named(watched, "Deployment", f"llava-av-{part}")["spec"]["template"]
        monitor = named(watched, "PodMonitor", f"llava-av-{part}")["spec"]
        assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        [endpoint] = monitor["podMetricsEndpoints"]
        assert endpoint["port"] in {
            port["name"] for one in containers(template["spec"]) for port in one.get("ports", [])
        }


def test_without_monitoring_no_metrics_are_exposed() -> None:
    text = template()
    assert "--expose-prometheus" not in text
    assert "MINIO_PROMETHEUS_AUTH_TYPE" not in text
    assert not [name for name in names(render(), "NetworkPolicy") if "metrics" in name]


def test_servers_expose_metrics_without_the_operator() -> None:
    found = render({**ON, "monitoring": {"enabled": True, "operator": False, "namespace": "watch"}})
    assert not {one["kind"] for one in found} & {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
    pod = named(found, "Deployment", "llava-av-mlflow")["spec"]["template"]["spec"]
    mlflow, metrics = pod["containers"]
    assert f"--expose-prometheus={metrics['command'][2]}" in mlflow["args"]
    assert metrics["volumeMounts"] == mlflow["volumeMounts"]
    for part in ("jobs", "mlflow", "s3", "serving"):
        [rule] = named(found, "NetworkPolicy", f"llava-av-{part}-metrics")["spec"]["ingress"]
        [peer] = rule["from"]
        assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watch"}}}


def test_without_a_server_no_alert_watches_it() -> None:
    found = render({"monitoring": ON["monitoring"]}, options=OPERATOR)
    rules = named(found, "PrometheusRule", "llava-av-alerts")["spec"]
    assert [group["name"] for group in rules["groups"]] == ["llava-av-training", "llava-av-services"]


def test_a_missing_operator_is_an_error() -> None:
    with pytest.raises(Rejected, match=r"monitoring\.operator needs the Prometheus operator"):
        template(ON)
