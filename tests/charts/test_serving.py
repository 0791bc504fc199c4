"""Tests of the objects that serve a model."""

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from kubernetes.client import V1PodSpec

from llava_av.serving.public_addresses import is_public
from tests.charts.chart import Object, Rejected, named, names, notes, render, template, variables
from tests.charts.objects import job_of
from tests.charts.test_values import EXTERNAL_S3
from tests.commands import ROOT

NAME = "llava-av-serving"
KSERVE_FIELDS = {
    *("annotations", "deploymentStrategy", "labels"),
    *("maxReplicas", "minReplicas", "scaleMetric", "scaleTarget"),
}


def serving(model: str = "models:/words@champion", **values: Any) -> dict[str, Any]:
    return {"serving": {"enabled": True, "model": model, **values}}


def pod(found: list[Object]) -> Object:
    """Return the spec of the server's pods."""
    spec: Object = named(found, "Deployment", NAME)["spec"]["template"]["spec"]
    return spec


def credentials(found: list[Object]) -> str:
    """Return the Secret with which the server reads models."""
    (container,) = pod(found)["containers"]
    (name,) = [one["secretRef"]["name"] for one in container["envFrom"] if "secretRef" in one]
    return str(name)


def test_nothing_serves_by_default() -> None:
    assert not [one for one in render() if one["metadata"]["name"].startswith(NAME)]


def test_the_server_gets_model_keys_and_limits() -> None:
    found = render(serving(limits={"media_bytes": 2_000_000, "decode_s": 1.5}, shutdownDelaySeconds=20))
    (server,) = pod(found)["containers"]
    assert server["args"] == [
        "serve",
        "models:/words@champion",
        "--host=0.0.0.0",
        "--port=8000",
        "--api-keys=/etc/llava-av/api-keys/keys",
        "--shutdown-delay-s=20",
        "--limit=decode_s=1.5",
        "--limit=media_bytes=2000000",
    ]
    assert server["image"] == "llava-av-train:dev"
    keys = next(volume for volume in pod(found)["volumes"] if volume["name"] == "keys")
    assert keys["secret"] == {"secretName": f"{NAME}-keys", "items": [{"key": "keys", "path": "keys"}]}
    (wait,) = pod(found)["initContainers"]
    assert wait["command"][-1] == "models:/words@champion"


def test_the_server_reaches_the_hosts_of_media_at_public_addresses() -> None:
    hosts = ["media.example.org", "https://clips.example.org:8443", "http://old.example.org", "b.example.org"]
    found = render(serving(mediaHosts=hosts))
    (server,) = pod(found)["containers"]
    assert server["args"][-4:] == [f"--media-host={host}" for host in hosts]
    rule = named(found, "NetworkPolicy", NAME)["spec"]["egress"][-1]
    assert rule["ports"] == [{"port": 443}, {"port": 80}, {"port": 8443}]
    assert {"cidr": "2000::/3"} in [peer["ipBlock"] for peer in rule["to"]]
    (own,) = [peer["ipBlock"] for peer in rule["to"] if "except" in peer["ipBlock"]]
    # No excepted address is public, and no service of a cloud for its machines is admitted.
    assert not [one for one in own["except"] if is_public(ip_network(one)[0])]
    for address in ("10.0.0.1", "169.254.169.254", "168.63.129.16", "192.0.0.192"):
        assert any(ip_address(address) in ip_network(one) for one in own["except"])


def test_no_host_of_media_means_no_way_to_the_internet() -> None:
    egress = named(render(serving()), "NetworkPolicy", NAME)["spec"]["egress"]
    assert all("ipBlock" not in peer for rule in egress for peer in rule["to"])


def test_a_pod_that_ends_has_time_for_running_requests() -> None:
    # The server drains for 30 s after the delay.
    found = render(serving(shutdownDelaySeconds=100))
    assert pod(found)["terminationGracePeriodSeconds"] > 100 + 30


def test_a_model_that_loads_slowly_is_not_restarted() -> None:
    found = render(serving(startupSeconds=3_601))
    probe = pod(found)["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3_601
    assert named(found, "Deployment", NAME)["spec"]["progressDeadlineSeconds"] > 3_601


def test_api_keys_are_generated_or_given() -> None:
    found = render(serving())
    (fill,) = job_of(found, "secrets")["spec"]["template"]["spec"]["containers"]
    assert json.loads(fill["args"][0])[f"{NAME}-keys"] == {"keys": {"bytes": 32}}
    given = render(serving(apiKeys={"existingSecret": "theirs", "key": "007"}))
    assert f"{NAME}-keys" not in names(given, "Secret")
    keys = next(volume for volume in pod(given)["volumes"] if volume["name"] == "keys")
    assert keys["secret"] == {"secretName": "theirs", "items": [{"key": "007", "path": "keys"}]}
    (test,) = named(given, "Pod", "llava-av-test-serving")["spec"]["containers"]
    assert variables(test)["API_KEYS"]["secretKeyRef"] == {"name": "theirs", "key": "007"}


@pytest.mark.parametrize(
    ("values", "secret"),
    [
        ({}, "llava-av-serving-credentials"),
        ({"jobCredentials": {"existingSecret": "theirs"}}, "llava-av-serving-credentials"),
        ({"credentials": {"existingSecret": "mine"}}, "mine"),
        ({"s3": {"flavour": "seaweedfs"}}, "llava-av-credentials"),
        (EXTERNAL_S3, "mine"),
    ],
)
def test_the_server_has_its_own_users_if_the_chart_creates_users(values: dict[str, Any], secret: str) -> None:
    found = render({**serving(), **values})
    assert credentials(found) == secret
    (services,) = job_of(found, "services")["spec"]["template"]["spec"]["containers"]
    own = secret == "llava-av-serving-credentials"
    for name in ("SERVING_AWS_ACCESS_KEY_ID", "SERVING_MLFLOW_TRACKING_PASSWORD"):
        assert (name in variables(services)) == own
    existing = {**values, **serving(credentials={"existingSecret": "readers"})}
    assert credentials(render(existing)) == "readers"


@pytest.mark.parametrize("permission", ["READ", "NO_PERMISSIONS"])
def test_the_server_may_read_models_in_mlflow(permission: str) -> None:
    found = render({**serving(), "mlflow": {"auth": {"defaultPermission": permission}}})
    (fill,) = job_of(found, "secrets")["spec"]["template"]["spec"]["containers"]
    keys = json.loads(fill["args"][0])["llava-av-serving-credentials"]
    shared = {"copy": "llava-av-credentials"}
    own = {"value": "llava-av-serving"}
    is_shared = permission == "NO_PERMISSIONS"
    assert keys["MLFLOW_TRACKING_USERNAME"] == (shared if is_shared else own)
    # A copy of an earlier password must not undo a change of the password of that user.
    (services,) = job_of(found, "services")["spec"]["template"]["spec"]["containers"]
    assert ("SERVING_MLFLOW_TRACKING_PASSWORD" in variables(services)) != is_shared


def test_placement_is_that_of_the_servers_unless_it_is_given() -> None:
    everywhere = {"nodeSelector": {"pool": "servers"}, "priorityClassName": "high"}
    spec = pod(render({**serving(), "placement": everywhere}))
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"pool": "servers"}, "high")
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    own = {"nodeSelector": {"pool": "gpu"}, "tolerations": tolerations, "runtimeClassName": "nvidia"}
    spec = pod(render({**serving(placement=own), "placement": everywhere}))
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"pool": "gpu"}, "high")
    assert (spec["tolerations"], spec["runtimeClassName"]) == (tolerations, "nvidia")


def test_replicas_and_disruption() -> None:
    update = {"maxSurge": 0, "maxUnavailable": "50%"}
    one, several = render(serving()), render(serving(replicas=3, rollingUpdate=update))
    assert NAME not in names(one, "PodDisruptionBudget")
    assert NAME in names(several, "PodDisruptionBudget")
    spec = named(several, "Deployment", NAME)["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"]["rollingUpdate"] == update
    assert named(one, "Deployment", NAME)["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    for none in (0, "0%"):
        with pytest.raises(Rejected, match="no pod can be replaced"):
            template(serving(rollingUpdate={"maxSurge": none}))


def test_autoscaling() -> None:
    found = render(serving(autoscaling={"enabled": True, "queue": 3, "maxReplicas": 5}))
    scaler = named(found, "HorizontalPodAutoscaler", NAME)["spec"]
    assert scaler["scaleTargetRef"]["name"] in names(found, "Deployment")
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (1, 5)
    assert [one["type"] for one in scaler["metrics"]] == ["Resource", "Pods"]
    # An upgrade must not undo the scaling.
    assert "replicas" not in named(found, "Deployment", NAME)["spec"]
    assert NAME in names(found, "PodDisruptionBudget")
    with pytest.raises(Rejected, match="needs a target"):
        template(serving(autoscaling={"enabled": True, "cpuPercent": 0}))


def test_ingress() -> None:
    ingress = {"enabled": True, "host": "ask.example.org", "className": "nginx", "tlsSecret": "tls"}
    found = render(serving(ingress={**ingress, "annotations": {"a": "b"}}))
    made = named(found, "Ingress", NAME)
    assert made["spec"]["tls"] == [{"hosts": ["ask.example.org"], "secretName": "tls"}]
    (rule,) = made["spec"]["rules"]
    paths = {(one["path"], one["pathType"]) for one in rule["http"]["paths"]}
    page = {path.name for path in (ROOT / "llava_av" / "serving" / "page_files").iterdir()} - {"index.html"}
    assert paths == {("/v1", "Prefix"), ("/", "Exact"), *((f"/{name}", "Exact") for name in page)}
    ports = {one["backend"]["service"]["port"]["name"] for one in rule["http"]["paths"]}
    assert ports == {one["name"] for one in named(found, "Service", NAME)["spec"]["ports"]}
    assert made["metadata"]["annotations"] == {"a": "b"}


@pytest.mark.parametrize("part", ["serving", "mlflow"])
def test_an_ingress_may_have_a_wildcard_host(part: str) -> None:
    values = {"serving": serving()["serving"], "mlflow": {}}
    values[part]["ingress"] = {"enabled": True, "host": "*.example.org", "tlsSecret": "tls"}
    spec = named(render(values), "Ingress", f"llava-av-{part}")["spec"]
    assert [rule["host"] for rule in spec["rules"]] == spec["tls"][0]["hosts"] == ["*.example.org"]


def test_decoded_media_have_more_memory_than_containers_get_by_default() -> None:
    spec = pod(render(serving()))
    (mount,) = [one for one in spec["containers"][0]["volumeMounts"] if one["mountPath"] == "/dev/shm"]
    (volume,) = [one for one in spec["volumes"] if one["name"] == mount["name"]]
    assert volume["emptyDir"]["medium"] == "Memory"


def test_network_policies_admit_the_named_clients() -> None:
    client = {"namespaceSelector": {"matchLabels": {"team": "apps"}}}
    found = render({**serving(clients=[client]), "networkPolicies": {"internet": True}})
    own = named(found, "Deployment", NAME)["spec"]["selector"]
    policy = named(found, "NetworkPolicy", NAME)["spec"]
    assert policy["podSelector"] == own
    assert client in policy["ingress"][0]["from"]
    assert {"ports": [{"port": 443}]} in policy["egress"]
    for part in ("s3", "mlflow"):
        (rule,) = named(found, "NetworkPolicy", f"llava-av-{part}")["spec"]["ingress"]
        assert {"podSelector": own} in rule["from"]
    # `helm test` asks, too.
    to = {"to": [{"podSelector": own}], "ports": [{"port": 8000}]}
    assert to in named(found, "NetworkPolicy", "llava-av-internal")["spec"]["egress"]


def test_kserve_runs_the_same_pod() -> None:
    values = {"replicas": 2, "podAnnotations": {"a": "b"}}
    plain = render(serving(**values))
    found = render(serving(**values, kserve={"enabled": True}))
    assert NAME not in names(found, "Deployment") | names(found, "Service")
    made = named(found, "InferenceService", NAME)
    predictor = made["spec"]["predictor"]
    assert made["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}
    deployed = named(plain, "Deployment", NAME)["spec"]["template"]
    assert {name: predictor[name] for name in ("labels", "annotations")} == deployed["metadata"]
    deployed["spec"]["containers"][0]["name"] = "kserve-container"
    assert {name: predictor[name] for name in deployed["spec"]} == deployed["spec"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 2)
    scaled = render(serving(autoscaling={"enabled": True}, kserve={"enabled": True}))
    predictor = named(scaled, "InferenceService", NAME)["spec"]["predictor"]
    assert (predictor["maxReplicas"], predictor["scaleMetric"], predictor["scaleTarget"]) == (4, "cpu", 80)
    # KServe's CRD has the fields of a pod and its own.
    assert set(predictor) - set(V1PodSpec.attribute_map.values()) <= KSERVE_FIELDS
    assert NAME not in names(scaled, "HorizontalPodAutoscaler")
    (test,) = named(found, "Pod", "llava-av-test-serving")["spec"]["containers"]
    assert variables(test)["SERVING_URL"] == f"http://{NAME}-predictor.llava-av:80"


@pytest.mark.parametrize(
    "values",
    [
        {"ingress": {"enabled": True, "host": "ask.example.org"}},
        {"autoscaling": {"enabled": True, "queue": 1}},
        {"autoscaling": {"enabled": True, "cpuPercent": 0}},
    ],
)
def test_what_kserve_does_itself_or_cannot_do_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match=r"KServe|kserve"):
        template(serving(kserve={"enabled": True}, **values))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("models:/words.v2@challenger", "words.v2"),
        ("models:/words/12", "words"),
        ("s3://llava-av/checkpoints/0123456789abcdef/step-00000012/", "0123456789abcdef-step-00000012"),
    ],
)
def test_notes_ask_the_model_by_its_name(model: str, name: str) -> None:
    assert f'"model": "{name}"' in notes(serving(model))
