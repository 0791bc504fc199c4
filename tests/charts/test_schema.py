"""Tests that the schema rejects wrong values by name."""

import json
from typing import Any

import pytest

from tests.charts.chart import CHART, Rejected, template
from tests.charts.generating import documented

WRONG: dict[str, Any] = {
    "s3.flavour": {"s3": {"flavour": "ceph"}},
    "s3.bucket": {"s3": {"bucket": "Not_A_Bucket"}},
    "s3.extraBuckets": {"s3": {"extraBuckets": ["same", "same"]}},
    "s3.persistence.size": {"s3": {"persistence": {"size": "much"}}},
    "s3.persistance": {"s3": {"persistance": {"size": "1Gi"}}},
    "s3.external.endpoint": {"s3": {"enabled": False}},
    "credentials.existingSecret": {
        "s3": {"enabled": False, "external": {"endpoint": "https://s3.example.org"}}
    },
    "postgresql.external.host": {"postgresql": {"enabled": False}},
    "postgresql.external.existingSecret": {
        "postgresql": {"enabled": False, "external": {"host": "db.example.org"}}
    },
    "postgresql.external.sslMode": {"postgresql": {"external": {"sslMode": "perhaps"}}},
    "postgresql.database": {"postgresql": {"database": "drop table"}},
    "mlflow.artifacts": {"mlflow": {"artifacts": "nowhere"}},
    "mlflow.replicas": {"mlflow": {"replicas": -1}},
    "mlflow.external.trackingUri": {"mlflow": {"enabled": False}},
    "mlflow.allowedHosts": {"mlflow": {"allowedHosts": ["two, hosts"]}},
    "mlflow.auth.defaultPermission": {"mlflow": {"auth": {"defaultPermission": "ALL"}}},
    "mlflow.gc.schedule": {"mlflow": {"gc": {"schedule": "at night"}}},
    "mlflow.gc.olderThan": {"mlflow": {"gc": {"olderThan": "a month"}}},
    "mlflow.ingress.host": {"mlflow": {"ingress": {"enabled": True}}},
    "images.mlflow.digest": {"images": {"mlflow": {"digest": "latest"}}},
    "images.pullPolicy": {"images": {"pullPolicy": "Sometimes"}},
    "networkPolicies.s3Cidrs": {"networkPolicies": {"s3Cidrs": ["example.org"]}},
    "placement.tolerations": {"placement": {"tolerations": [{"key": "gpu", "effect": "Never"}]}},
    "team.priorityClasses": {"team": {"priorityClasses": [{"name": "high"}]}},
    "launcher.subjects": {"launcher": {"subjects": [{"kind": "Robot", "name": "r2"}]}},
    "fullnameOverride": {"fullnameOverride": "Has Spaces"},
    "monitoring.interval": {"monitoring": {"interval": "often"}},
    "backup.endpoint": {"backup": {"enabled": True, "bucket": "saved", "existingSecret": "keys"}},
    "backup.keep": {"backup": {"keep": -1}},
    "serving.model": {"serving": {"enabled": True}},
    "serving.limits": {"serving": {"limits": {"batch": "many"}}},
    "serving.rollingUpdate.maxSurge": {"serving": {"rollingUpdate": {"maxSurge": "half"}}},
    "serving.ingress.host": {"serving": {"ingress": {"enabled": True}}},
    "serving.kserve.deploymentMode": {"serving": {"kserve": {"deploymentMode": "Knative"}}},
    "unknown": {"unknown": True},
}


@pytest.mark.parametrize("path", WRONG)
def test_wrong_value_is_rejected_by_name(path: str) -> None:
    with pytest.raises(Rejected) as told:
        template(WRONG[path])
    parent, _, name = path.rpartition(".")
    place, said = path.replace(".", "/"), str(told.value)
    assert (
        f"/{place}" in said
        or f"at '/{parent}': additional properties '{name}'" in said
        or (f"at '': additional properties '{name}'" in said)
    ), said


def test_schema_knows_every_documented_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        reference = part.get("$ref")
        return schema["$defs"][reference.rpartition("/")[2]] if reference else part

    def paths(part: dict[str, Any], path: str, known: set[str]) -> set[str]:
        part = resolved(part)
        if path in known or "properties" not in part:
            return {path}
        assert part["additionalProperties"] is False, path
        inner = part["properties"].items()
        return {one for key, value in inner for one in paths(value, f"{path}.{key}".lstrip("."), known)}

    known = {path for path, _ in documented()}
    assert paths(schema, "", known) == known
