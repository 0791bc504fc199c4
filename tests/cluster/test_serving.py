"""Tests of serving on a real cluster: the wait for a champion, `helm test`, and an update under load."""

import base64
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError, OpenAI

from llava_av.storage import ObjectStore, StoreError
from tests.cluster.conftest import Kubectl
from tests.cluster.services import READY_S, RELEASE, Services, chart_values, helm, install
from tests.exporters import check_names, scraped
from tests.integration.serving.test_following import give, registered
from tests.media_samples import click, write_grey_clip

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

MODEL = "tiny"
SERVING = f"deployment/{RELEASE}-serving"
PODS = "app.kubernetes.io/component=serving"


def values(annotation: str) -> dict[str, Any]:
    serving = {
        "enabled": True,
        "model": f"models:/{MODEL}@champion",
        "limits": {"decode_workers": 1},
        "shutdownDelaySeconds": 5,
        "podAnnotations": {"test": annotation},
    }
    return {**chart_values(), "serving": serving}


@pytest.fixture(scope="module")
def services(kubectl: Kubectl, restricted_namespace: str) -> Services:
    """Install the chart, whose server waits for a model."""
    install(restricted_namespace, values("first"), wait_for_pods=False)
    for kind, part, condition in (("job", "bootstrap", "complete"), ("pod", "mlflow", "Ready")):
        which = (kind, "-l", f"app.kubernetes.io/component={part}", f"--for=condition={condition}")
        options = ("-n", restricted_namespace, f"--timeout={READY_S}s")
        kubectl("wait", *which, *options, timeout_s=READY_S + 30)
    return Services(kubectl=kubectl, namespace=restricted_namespace)


@pytest.fixture(scope="module")
def client(services: Services) -> Iterator[OpenAI]:
    key = services.secret(f"{RELEASE}-serving-keys")["keys"]
    url = f"http://{services.address('serving')}:8000/v1"
    with OpenAI(base_url=url, api_key=key, max_retries=0, timeout=120) as made:
        yield made


def ready(services: Services) -> None:
    done = ("rollout", "status", SERVING, f"--timeout={READY_S}s")
    services.kubectl("-n", services.namespace, *done, timeout_s=READY_S + 30)


def pods(services: Services) -> list[dict[str, Any]]:
    listed = services.kubectl("-n", services.namespace, "get", "pods", "-l", PODS, "-o", "json")
    found: list[dict[str, Any]] = json.loads(listed)["items"]
    return found


def test_the_server_waits_for_the_first_champion(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = ("logs", "-l", PODS, "-c", "wait", "--follow", "--pod-running-timeout=300s")
    with ThreadPoolExecutor(1) as pool:
        log = pool.submit(services.kubectl, "-n", services.namespace, *wait, timeout_s=READY_S)
        for name, value in services.environment().items():
            monkeypatch.setenv(name, value)
        store = services.store()
        give(store, MODEL, registered(store, MODEL, tmp_path / MODEL, 1))
        assert f"models:/{MODEL}@champion is version 1" in log.result()
    ready(services)


def test_helm_test_asks_a_question(services: Services) -> None:
    test = f"name={RELEASE}-test-serving"
    output = helm("test", RELEASE, "-n", services.namespace, "--filter", test, "--logs")
    assert f"{MODEL}/1@" in output
    assert "says about a red image" in output


def test_only_clients_with_a_key_are_answered(client: OpenAI) -> None:
    with pytest.raises(AuthenticationError):
        client.with_options(api_key="k" * 64).models.list()
    assert [one.id for one in client.models.list()] == [MODEL]


def test_the_server_can_only_read(services: Services) -> None:
    keys = services.secret("llava-av-serving-credentials")
    store = ObjectStore.from_env({**services.environment(), **keys})
    assert list(store.list(f"models/{MODEL}/"))
    with pytest.raises(StoreError, match="AccessDenied"):
        store.put_bytes(f"models/{MODEL}/aliases/00000001.json", b"{}")


def test_the_server_answers_prometheus(services: Services, client: OpenAI, tmp_path: Path) -> None:
    clip = base64.b64encode(write_grey_clip(tmp_path / "clip.mp4", click(0.5)).read_bytes()).decode()
    video = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{clip}"}}
    content: Any = [video, {"type": "text", "text": "What do you hear?"}]
    messages: Any = [{"role": "user", "content": content}]
    client.chat.completions.create(model=MODEL, messages=messages, max_tokens=4)
    (pod,) = pods(services)
    check_names("serving", scraped(f"http://{pod['status']['podIP']}:8000/metrics"))


def test_a_rolling_update_loses_no_request(services: Services, client: OpenAI) -> None:
    (before,) = pods(services)
    ended = threading.Event()

    def repeat(ask: Callable[[OpenAI], None], pause_s: float) -> int:
        answered = 0
        while not ended.wait(pause_s):
            ask(client)
            answered += 1
        return answered

    asks = [(_ask, 0.3), (_ask, 0.3), (_ask_streaming, 0.3), (_connect, 0.02)]
    with ThreadPoolExecutor(len(asks)) as pool:
        clients = [pool.submit(repeat, *one) for one in asks]
        try:
            install(services.namespace, values("second"))
            gone = ("wait", "--for=delete", f"pod/{before['metadata']['name']}", "--timeout=180s")
            services.kubectl("-n", services.namespace, *gone, timeout_s=200)
        finally:
            ended.set()
        # A failed request is raised here.
        assert all(one.result() for one in clients)
    (after,) = pods(services)
    assert after["metadata"]["annotations"]["test"] == "second"


def _ask(client: OpenAI, *, stream: bool = False) -> None:
    messages: Any = [{"role": "user", "content": "Which colour is shown?"}]
    asked: Any = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=16, stream=stream)
    choices = [one.choices[0] for one in asked] if stream else asked.choices
    assert choices[-1].finish_reason in ("length", "stop")


def _ask_streaming(client: OpenAI) -> None:
    _ask(client, stream=True)


def _connect(client: OpenAI) -> None:
    """Send a request over a new connection, which only a pod of the Service accepts."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=30)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {client.api_key}"})
    assert connection.getresponse().status == 200
    connection.close()
