"""Objects of a rendered chart."""

from typing import Any

from tests.charts.chart import Object, named

EXTERNAL_DATABASE = {
    "postgresql": {
        "enabled": False,
        "external": {"host": "db.example.org", "port": 6432, "existingSecret": "db", "passwordKey": "pw"},
    }
}
EXTERNAL_MLFLOW = {"mlflow": {"enabled": False, "external": {"trackingUri": "https://mlflow.example.org"}}}


def mlflow(found: list[Object]) -> Object:
    (container,) = named(found, "Deployment", "llava-av-mlflow")["spec"]["template"]["spec"]["containers"]
    return container


def job_of(found: list[Object], step: str) -> Object:
    (job,) = [
        one
        for one in found
        if one["kind"] == "Job" and one["spec"]["template"]["metadata"]["labels"]["llava-av/step"] == step
    ]
    return job


def services(found: list[Object]) -> dict[str, str]:
    data: dict[str, str] = named(found, "ConfigMap", "llava-av-services")["data"]
    return data


def policy_ports(found: list[Object], name: str) -> list[Any]:
    return named(found, "NetworkPolicy", f"llava-av-{name}")["spec"]["egress"]
