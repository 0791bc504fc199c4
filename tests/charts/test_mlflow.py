"""MLflow of the chart: its database, artifacts, users and garbage collection."""

from tests.charts.chart import named, names, render, template, variables
from tests.charts.objects import EXTERNAL_DATABASE, EXTERNAL_MLFLOW, job_of, mlflow, policy_ports, services


def test_external_postgresql_leaves_out_the_server() -> None:
    found = render(EXTERNAL_DATABASE)
    assert "llava-av-postgresql" not in names(found, "StatefulSet") | names(found, "NetworkPolicy")
    given = variables(mlflow(found))
    assert given["DATABASE_URI"] == "postgresql+psycopg2://mlflow@db.example.org:6432/mlflow"
    assert given["PGPASSWORD"] == {"secretKeyRef": {"name": "db", "key": "pw"}}
    assert given["PGSSLMODE"] == "require"
    assert not [one for one in names(found, "Job") if "database" in one]
    assert {"ports": [{"port": 6432}]} in policy_ports(found, "mlflow")


def test_database_and_user() -> None:
    found = render({"postgresql": {"database": "tracking", "username": "owner"}})
    address = "postgresql+psycopg2://owner@llava-av-postgresql:5432/tracking"
    assert variables(mlflow(found))["DATABASE_URI"] == address
    (container,) = job_of(found, "database")["spec"]["template"]["spec"]["containers"]
    assert (variables(container)["OWNER"], variables(container)["DATABASE"]) == ("owner", "tracking")


def test_external_mlflow_leaves_out_the_server() -> None:
    found = render({**EXTERNAL_MLFLOW, "postgresql": {"enabled": False}})
    assert not names(found, "Deployment")
    assert not names(found, "CronJob")
    assert services(found)["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org"


def test_artifacts_go_through_mlflow_or_directly() -> None:
    assert "--artifacts-destination=s3://llava-av/mlflow" in mlflow(render())["args"]
    found = render({"mlflow": {"artifacts": "direct"}})
    assert "--no-serve-artifacts" in mlflow(found)["args"]
    assert "--default-artifact-root=s3://llava-av/mlflow" in mlflow(found)["args"]
    assert services(found)["MLFLOW_S3_ENDPOINT_URL"] == services(found)["AWS_ENDPOINT_URL_S3"]


def test_mlflow_scales() -> None:
    found = render({"mlflow": {"replicas": 3, "workers": 2, "resources": {"limits": {"memory": "3Gi"}}}})
    assert named(found, "Deployment", "llava-av-mlflow")["spec"]["replicas"] == 3
    assert mlflow(found)["command"][-1] == "2"
    assert mlflow(found)["resources"]["limits"]["memory"] == "3Gi"


def test_hosts_and_origins_that_mlflow_accepts() -> None:
    ingress = {"enabled": True, "host": "mlflow.example.org", "className": "nginx", "tlsSecret": "tls"}
    values = {"mlflow": {"ingress": ingress, "allowedHosts": ["10.*"], "corsOrigins": ["https://a.org"]}}
    found = render({**values, "clusterDomain": "example.local"})
    (hosts,) = [one for one in mlflow(found)["args"] if one.startswith("--allowed-hosts=")]
    accepted = hosts.partition("=")[2].split(",")
    service = "llava-av-mlflow.llava-av.svc.example.local"
    assert {"10.*", "mlflow.example.org", service, f"{service}:*", "127.0.0.1:*"} <= set(accepted)
    assert "*" not in accepted
    assert "--cors-allowed-origins=https://a.org" in mlflow(found)["args"]
    spec = named(found, "Ingress", "llava-av-mlflow")["spec"]
    assert spec["ingressClassName"] == "nginx"
    assert spec["tls"] == [{"hosts": ["mlflow.example.org"], "secretName": "tls"}]
    assert services(found)["LLAVA_AV_MLFLOW_URL"] == "https://mlflow.example.org"
    assert not names(render(), "Ingress")


def test_mlflow_without_users() -> None:
    with_users, without = render(), render({"mlflow": {"auth": {"enabled": False}}})
    assert "--app-name=basic-auth" in mlflow(with_users)["args"]
    assert "--app-name=basic-auth" not in mlflow(without)["args"]
    assert (
        "MLFLOW_TRACKING_PASSWORD"
        not in template({"mlflow": {"auth": {"enabled": False}}})
        .replace(named(without, "ConfigMap", "llava-av-bootstrap")["data"]["prepare_services.py"], "")
        .partition("prepare_services.py: ")[0]
    )


def test_default_permission() -> None:
    found = render({"mlflow": {"auth": {"defaultPermission": "EDIT"}}})
    assert "default_permission = EDIT" in named(found, "ConfigMap", "llava-av-mlflow")["data"]["auth.ini"]


def test_garbage_collection() -> None:
    found = render({"mlflow": {"gc": {"schedule": "@daily", "olderThan": "7d"}}})
    job = named(found, "CronJob", "llava-av-mlflow-gc")["spec"]
    assert job["schedule"] == "@daily"
    (container,) = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert "--older-than=7d" in container["command"]
    assert not names(render({"mlflow": {"gc": {"enabled": False}}}), "CronJob")
