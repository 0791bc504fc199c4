"""Tests of the effect of each value on the rendered objects; the schema has its own tests."""

import json
from typing import Any

import pytest
import yaml

from tests.charts.chart import Rejected, containers, named, names, pod_specs, render, template, variables
from tests.charts.objects import EXTERNAL_DATABASE, EXTERNAL_MLFLOW, job_of, mlflow, policy_ports, services
from tests.commands import ROOT

EXTERNAL_S3 = {
    "s3": {"enabled": False, "external": {"endpoint": "https://s3.example.org"}},
    "credentials": {"existingSecret": "mine"},
}


def test_names_follow_the_release() -> None:
    assert "team-llava-av-mlflow" in names(render(release="team"), "Deployment")
    assert "llava-av-two-mlflow" in names(render(release="llava-av-two"), "Deployment")
    assert "mine-mlflow" in names(render({"fullnameOverride": "mine"}), "Deployment")


def test_selectors_do_not_change_with_the_version_or_with_values() -> None:
    for values in ({}, {"images": {"mlflow": {"tag": "other"}}}):
        selector = named(render(values), "Deployment", "llava-av-mlflow")["spec"]["selector"]["matchLabels"]
        assert selector == {
            "app.kubernetes.io/name": "llava-av",
            "app.kubernetes.io/instance": "llava-av",
            "app.kubernetes.io/component": "mlflow",
        }


@pytest.mark.parametrize(
    ("image", "registry", "name"),
    [
        ({"repository": "mlflow", "tag": "1"}, "", "mlflow:1"),
        ({"repository": "mlflow", "tag": "1"}, "r.example.org/team/", "r.example.org/team/mlflow:1"),
        ({"repository": "q.io/mlflow", "tag": "1"}, "r.example.org", "q.io/mlflow:1"),
        ({"repository": "localhost:5000/mlflow", "tag": "1"}, "r.example.org", "localhost:5000/mlflow:1"),
        ({"repository": "team/mlflow", "tag": "1"}, "r.example.org", "r.example.org/team/mlflow:1"),
        ({"digest": f"sha256:{'0' * 64}"}, "", f"llava-av-mlflow@sha256:{'0' * 64}"),
        ({"repository": f"mlflow@sha256:{'0' * 64}", "tag": ""}, "", f"mlflow@sha256:{'0' * 64}"),
    ],
)
def test_images_use_one_registry(image: dict[str, str], registry: str, name: str) -> None:
    found = render({"images": {"mlflow": image, "registry": registry, "pullPolicy": "Always"}})
    assert mlflow(found)["image"] == name
    assert mlflow(found)["imagePullPolicy"] == "Always"


def test_images_without_a_digest_are_refused_where_digests_are_required() -> None:
    used = ("mlflow", "pipeline", "train", "minio", "postgresql")
    digests = {name: {"digest": f"sha256:{'0' * 64}"} for name in used}
    found = render({"images": {"requireDigests": True, **digests}})
    names_used = {one["image"] for _, spec, _ in pod_specs(found) for one in containers(spec)}
    assert all(name.endswith(f"@sha256:{'0' * 64}") for name in names_used)
    for name in used:
        with pytest.raises(Rejected, match=rf"images\.{name} \(.*\) has no digest"):
            render({"images": {"requireDigests": True, **digests, name: {"digest": ""}}})
    by_name = {name: {"repository": f"r.example.org/{name}@sha256:{'0' * 64}", "tag": ""} for name in used}
    assert render({"images": {"requireDigests": True, **by_name}})


def test_pull_secrets_placement_and_authorities_reach_every_pod() -> None:
    values: dict[str, Any] = {
        "images": {"pullSecrets": ["registry"]},
        "placement": {
            "nodeSelector": {"pool": "servers"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "priorityClassName": "high",
        },
        "caConfigMap": "company-ca",
        "pipelines": {"endpoint": "http://ml-pipeline.kubeflow:8888"},
    }
    found = render(values)
    for where, spec, labels in pod_specs(found):
        assert spec["imagePullSecrets"] == [{"name": "registry"}], where
        assert spec["nodeSelector"] == {"pool": "servers"}, where
        assert spec["tolerations"] == values["placement"]["tolerations"], where
        server = labels["app.kubernetes.io/component"] in ("s3", "postgresql", "mlflow")
        assert (spec.get("priorityClassName") == "high") == server, where
    assert variables(mlflow(found))["SSL_CERT_FILE"] == "/etc/llava-av/ca/ca.crt"
    with_authority = [
        where
        for where, spec, _ in pod_specs(found)
        if any(volume.get("configMap", {}).get("name") == "company-ca" for volume in spec["volumes"])
    ]
    assert len(with_authority) == 6, with_authority


def test_seaweedfs_instead_of_minio() -> None:
    found = render({"s3": {"flavour": "seaweedfs"}})
    (container,) = named(found, "StatefulSet", "llava-av-s3")["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("docker.io/chrislusf/seaweedfs:")
    assert {"-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0"} <= set(container["args"])
    assert services(found)["AWS_ENDPOINT_URL_S3"] == "http://llava-av-s3.llava-av:8333"
    assert named(found, "NetworkPolicy", "llava-av-s3")["spec"]["ingress"][0]["ports"] == [{"port": 8333}]
    assert "s3-root-password" not in json.dumps(found)


def test_external_s3_leaves_out_the_server() -> None:
    found = render(EXTERNAL_S3)
    assert "llava-av-s3" not in names(found, "StatefulSet") | names(found, "Service")
    assert "llava-av-s3" not in names(found, "PersistentVolumeClaim") | names(found, "NetworkPolicy")
    assert services(found)["AWS_ENDPOINT_URL_S3"] == "https://s3.example.org"
    assert "llava-av-credentials" not in names(found, "Secret")
    assert {"ports": [{"port": 443}]} in policy_ports(found, "jobs-to-services")
    limited = render({**EXTERNAL_S3, "networkPolicies": {"s3Cidrs": ["203.0.113.0/24"]}})
    assert {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 443}]} in policy_ports(
        limited, "jobs-to-services"
    )


def test_buckets_are_created() -> None:
    found = render({"s3": {"bucket": "first", "extraBuckets": ["second", "third"]}})
    (container,) = job_of(found, "services")["spec"]["template"]["spec"]["containers"]
    assert variables(container)["BUCKETS"] == "first,second,third"
    assert services(found)["LLAVA_AV_BUCKET"] == "first"


@pytest.mark.parametrize("part", ["s3", "postgresql"])
def test_volumes(part: str) -> None:
    persistence = {"size": "7Gi", "storageClass": "fast"}
    found = render({part: {"persistence": persistence}})
    claim = named(found, "PersistentVolumeClaim", f"llava-av-{part}")
    assert claim["spec"]["resources"]["requests"]["storage"] == "7Gi"
    assert claim["spec"]["storageClassName"] == "fast"
    found = render({part: {"persistence": {"existingClaim": "mine"}}})
    assert f"llava-av-{part}" not in names(found, "PersistentVolumeClaim")
    volumes = named(found, "StatefulSet", f"llava-av-{part}")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}} in volumes


@pytest.mark.parametrize("keep", [True, False])
def test_objects_that_outlive_the_release(keep: bool) -> None:
    kept = {
        (one["kind"], one["metadata"]["name"])
        for one in render({"keepData": keep})
        if one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    data = {("PersistentVolumeClaim", f"llava-av-{part}") for part in ("s3", "postgresql")}
    passwords = {("Secret", f"llava-av-{part}") for part in ("servers", "credentials", "job-credentials")}
    assert kept == (data | passwords if keep else set())


def test_existing_secrets() -> None:
    values = {"credentials": {"existingSecret": "mine"}, "serverSecrets": {"existingSecret": "ours"}}
    found = render(values)
    assert not names(found, "Secret")
    assert not [one for one in names(found, "Job") if "secrets" in one]
    assert variables(mlflow(found))["AWS_ACCESS_KEY_ID"]["secretKeyRef"]["name"] == "mine"
    assert variables(mlflow(found))["MLFLOW_AUTH_ADMIN_PASSWORD"]["secretKeyRef"]["name"] == "ours"


@pytest.mark.parametrize(
    ("values", "secret"),
    [
        ({}, "llava-av-job-credentials"),
        ({"jobCredentials": {"existingSecret": "theirs"}}, "theirs"),
        ({"credentials": {"existingSecret": "mine"}}, "mine"),
        ({"s3": {"flavour": "seaweedfs"}}, "llava-av-credentials"),
    ],
)
def test_training_has_its_own_keys_if_the_chart_creates_users(values: dict[str, Any], secret: str) -> None:
    found = render(values)
    (test,) = named(found, "Pod", "llava-av-test-training-job")["spec"]["containers"]
    assert json.loads(variables(test)["PROFILE"])["credentials_secret"] == secret
    made = secret == "llava-av-job-credentials"
    assert (secret in names(found, "Secret")) == (made or secret == "llava-av-credentials")
    (services,) = job_of(found, "services")["spec"]["template"]["spec"]["containers"]
    assert ("JOB_AWS_ACCESS_KEY_ID" in variables(services)) == made


def test_names_of_credentials_and_services() -> None:
    names_of = {"credentials": {"name": "keys"}, "jobCredentials": {"name": "few"}}
    found = render({**names_of, "services": {"name": "places"}})
    assert {"keys", "few"} <= names(found, "Secret")
    assert "places" in names(found, "ConfigMap")


def test_a_changed_job_has_a_new_name() -> None:
    plain, other = (job_of(render(values), "services") for values in ({}, {"s3": {"bucket": "other"}}))
    assert plain["metadata"]["name"] == job_of(render(), "services")["metadata"]["name"]
    assert plain["metadata"]["name"] == job_of(render(namespace="other"), "services")["metadata"]["name"]
    assert plain["metadata"]["name"] != other["metadata"]["name"]


def test_launchers() -> None:
    person = {"kind": "User", "name": "ada", "apiGroup": "rbac.authorization.k8s.io"}
    found = render({"launcher": {"name": "starter", "subjects": [person], "listNodes": True}})
    account = {"kind": "ServiceAccount", "name": "starter", "namespace": "llava-av"}
    assert named(found, "RoleBinding", "starter")["subjects"] == [account, person]
    nodes = named(found, "ClusterRoleBinding", "llava-av-starter-nodes")
    assert nodes["subjects"] == [account, person]
    assert not names(render(), "ClusterRole")
    without = render({"launcher": {"enabled": False}, "tests": {"trainingJob": False}})
    assert "llava-av-launcher" not in names(without, "Role") | names(without, "ServiceAccount")


@pytest.mark.parametrize(
    "values", [{"tests": {"trainingJob": True}}, {"pipelines": {"endpoint": "http://ml-pipeline:8888"}}]
)
def test_pods_that_launch_jobs_need_the_launcher(values: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match="launcher"):
        template({"tests": {"trainingJob": False}, **values, "launcher": {"enabled": False}})


def test_team_limits() -> None:
    team = {
        "quota": {"pods": "10"},
        "limitRange": {"default": {"memory": "1Gi"}, "max": {"memory": "8Gi"}},
        "priorityClasses": [{"name": "a", "value": 5}, {"name": "b", "value": 1, "preempt": False}],
        "maxUnavailable": 0,
    }
    found = render({"team": team})
    assert named(found, "ResourceQuota", "llava-av")["spec"] == {"hard": {"pods": "10"}}
    (limit,) = named(found, "LimitRange", "llava-av")["spec"]["limits"]
    assert limit == {"type": "Container", **team["limitRange"]}  # type: ignore[dict-item]
    policies = [named(found, "PriorityClass", name)["preemptionPolicy"] for name in ("a", "b")]
    assert policies == ["PreemptLowerPriority", "Never"]
    assert named(found, "PodDisruptionBudget", "llava-av-s3")["spec"]["maxUnavailable"] == 0
    kinds = {one["kind"] for one in render()}
    assert not kinds & {"ResourceQuota", "LimitRange", "PriorityClass"}


def test_network_policies() -> None:
    assert not names(render({"networkPolicies": {"enabled": False}}), "NetworkPolicy")
    clients = [{"podSelector": {"matchLabels": {"app": "notebook"}}}]
    dns = {"namespace": "openshift-dns", "port": 5353, "cidrs": ["169.254.20.10/32"]}
    found = render({"networkPolicies": {"clients": clients, "dns": dns, "internet": True}})
    for part in ("s3", "mlflow"):
        (rule,) = named(found, "NetworkPolicy", f"llava-av-{part}")["spec"]["ingress"]
        assert clients[0] in rule["from"]
        assert "kubeflow" not in json.dumps(rule)
    (rule,) = policy_ports(found, "dns")
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in rule["to"]
    assert {one["port"] for one in rule["ports"]} == {5353}
    assert {"ports": [{"port": 443}]} in policy_ports(found, "jobs")
    outside = render({**EXTERNAL_DATABASE, **EXTERNAL_MLFLOW})
    assert {"ports": [{"port": 443}]} in policy_ports(outside, "jobs-to-services")
    cidrs = {"postgresqlCidrs": ["203.0.113.1/32"], "mlflowCidrs": ["203.0.113.2/32"]}
    limited = render({**EXTERNAL_DATABASE, **EXTERNAL_MLFLOW, "networkPolicies": cidrs})
    assert "203.0.113.2/32" in json.dumps(policy_ports(limited, "jobs-to-services"))
    assert "203.0.113.1/32" in json.dumps(policy_ports(limited, "internal"))


def test_queues() -> None:
    assert not names(render(), "LocalQueue")
    found = render({"kueue": {"enabled": True, "localQueue": "mine", "clusterQueue": "ours"}})
    assert named(found, "LocalQueue", "mine")["spec"] == {"clusterQueue": "ours"}
    assert not names(found, "ClusterQueue")
    kueue = {"enabled": True, "resources": {"cpu": "8", "memory": "1Gi"}, "nodeLabels": {"pool": "gpu"}}
    found = render({"kueue": kueue})
    (group,) = named(found, "ClusterQueue", "llava-av")["spec"]["resourceGroups"]
    assert group["coveredResources"] == ["cpu", "memory"]
    assert named(found, "ResourceFlavor", "llava-av")["spec"] == {"nodeLabels": {"pool": "gpu"}}
    test = named(found, "Pod", "llava-av-test-training-job")["spec"]["containers"][0]
    assert json.loads(variables(test)["PROFILE"])["queue"] == "llava-av"


def test_deleting_orphaned_jobs() -> None:
    assert "llava-av-reaper" not in names(render(), "CronJob")
    pipelines = {"endpoint": "http://ml-pipeline.kubeflow:8888", "reaper": {"schedule": "@hourly"}}
    found = render({"pipelines": pipelines})
    assert named(found, "CronJob", "llava-av-reaper")["spec"]["schedule"] == "@hourly"
    assert {"ports": [{"port": 8888}]} in policy_ports(found, "internal")


def test_the_training_job_of_helm_test_is_optional() -> None:
    assert names(render({"tests": {"trainingJob": False}}), "Pod") == {"llava-av-test-services"}
    found = render({"tests": {"deadlineSeconds": 5}})
    test = named(found, "Pod", "llava-av-test-training-job")["spec"]["containers"][0]
    assert json.loads(variables(test)["PROFILE"])["deadline_s"] == 5


def test_roles_and_policies_equal_those_of_k8s() -> None:
    # k8s/access and k8s/network serve users without Helm.
    found = render({"monitoring": {"enabled": True, "operator": False}})
    for folder in ("access", "network", "network/monitoring"):
        kustomization = yaml.safe_load((ROOT / "k8s" / folder / "kustomization.yaml").read_text())
        for name in kustomization["resources"]:
            for one in yaml.safe_load_all((ROOT / "k8s" / folder / name).read_text()):
                if one["kind"] != "Namespace":
                    made = named(found, one["kind"], one["metadata"]["name"])
                    for part in ("spec", "rules", "roleRef", "subjects"):
                        assert made.get(part) == one.get(part), (one["kind"], one["metadata"]["name"])


def test_training_operator() -> None:
    assert "pytorchjobs.kubeflow.org" not in names(render(), "CustomResourceDefinition")
    values = {"trainingOperator": {"enabled": True, "resources": {"requests": {"cpu": "1"}}}}
    found = render(values)
    assert names(found, "CustomResourceDefinition") == {"pytorchjobs.kubeflow.org"}
    deployment = named(found, "Deployment", "llava-av-training-operator")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {**container["resources"], "requests": {"cpu": "1", "memory": "128Mi"}}
    webhook = named(found, "ValidatingWebhookConfiguration", "validator.training-operator.kubeflow.org")
    (client,) = [one["clientConfig"]["service"] for one in webhook["webhooks"]]
    assert client["name"] in names(found, "Service")
    assert f"--webhook-service-name={client['name']}" in container["args"]
    assert "llava-av-training-operator" in names(found, "NetworkPolicy")


def test_an_existing_training_operator_is_not_replaced() -> None:
    values = {"trainingOperator": {"enabled": True}}
    with pytest.raises(Rejected, match="already has the PyTorchJob CRD"):
        template(values, options=("--api-versions", "kubeflow.org/v1/PyTorchJob"))
    template(values, options=("--api-versions", "kubeflow.org/v1/PyTorchJob", "--is-upgrade"))
