"""Registering, promoting and loading model versions with a real MLflow server."""

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mlflow import MlflowClient

from llava_av.registry.versions import (
    LineageError,
    RegisteredVersion,
    load_version,
    register_version,
)
from llava_av.tracking.connection import MlflowError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def lineage(digest: str, **changed: Any) -> dict[str, Any]:
    return {
        "run": "0123456789abcdef",
        "job": {"name": None, "pipeline_run": None},
        "dataset": {"name": "demo", "commit": "d" * 64},
        "git": {"commit": "c" * 40, "dirty": True, "patch_sha256": "f" * 64, "note": None},
        "recipe": {"name": "dryrun", "training": {"steps": 600}, "note": "ünï'code"},
        "seed": 0,
        "checkpoint": {
            "uri": f"s3://llava-av/checkpoints/{digest[:8]}/step-00000600",
            "digest": digest,
            "manifest_sha256": "a" * 64,
        },
        "experiment": {"id": "dryrun", "sha256": "e" * 64, "incomplete": []},
        "code_digest": "b" * 64,
        "environment": {
            "python": "3.11.9",
            "platform": "Linux",
            "packages": {f"package-{index}": "1.0" for index in range(300)},
            "image": None,
            "job": None,
        },
        **changed,
    }


def digest_of(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def model(mlflow_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that no other test uses, on the server of this session."""
    for key, value in mlflow_environment.items():
        monkeypatch.setenv(key, value)
    return f"model-{uuid.uuid4().hex[:12]}"


def versions_of(model: str) -> list[int]:
    found = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).search_model_versions(f"name = '{model}'")
    return sorted(int(version.version) for version in found)


def test_a_version_holds_its_whole_lineage(model: str) -> None:
    record = lineage(digest_of(1))
    registered = register_version(name=model, lineage=record, run_id=None, lineage_uri="s3://llava-av/runs/r")
    assert registered == RegisteredVersion(
        name=model,
        version="1",
        aliases=(),
        checkpoint_uri=record["checkpoint"]["uri"],
        checkpoint_digest=digest_of(1),
        lineage=record,
    )
    assert load_version(f"models:/{model}/1") == registered
    assert json.loads(json.dumps(registered.to_json()))["lineage"] == record
    tags = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_model_version(model, "1").tags
    assert {key: tags[key] for key in ("dataset", "git_commit", "git_dirty", "seed", "lineage_uri")} == {
        "dataset": f"demo@{'d' * 64}",
        "git_commit": "c" * 40,
        "git_dirty": "true",
        "seed": "0",
        "lineage_uri": "s3://llava-av/runs/r",
    }


def test_the_run_of_the_training_is_named(model: str) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment(model)).info.run_id
    register_version(name=model, lineage=lineage(digest_of(1)), run_id=run_id)
    assert client.get_model_version(model, "1").run_id == run_id


def test_a_checkpoint_is_registered_once_for_a_model(model: str) -> None:
    first = register_version(name=model, lineage=lineage(digest_of(1)))
    again = register_version(name=model, lineage=lineage(digest_of(1), seed=5))
    other = register_version(name=model, lineage=lineage(digest_of(2)))
    elsewhere = register_version(name=f"{model}.other", lineage=lineage(digest_of(1)))
    assert again == first
    assert (first.version, other.version, elsewhere.version) == ("1", "2", "1")
    assert versions_of(model) == [1, 2]


def test_many_at_once_register_each_checkpoint_once(model: str) -> None:
    digests = [digest_of(number % 3) for number in range(9)]
    with ThreadPoolExecutor(len(digests)) as pool:
        done = list(pool.map(lambda digest: register_version(name=model, lineage=lineage(digest)), digests))
    by_digest = {(version.checkpoint_digest, version.version) for version in done}
    assert len(by_digest) == 3
    assert versions_of(model) == sorted(int(version) for _, version in by_digest)


def test_an_incomplete_lineage_is_refused_by_the_names_of_its_gaps(model: str) -> None:
    record = lineage(digest_of(1))
    del record["seed"]
    record["dataset"] = {"name": "demo"}
    with pytest.raises(LineageError, match=r"lacks: dataset\.commit, seed$"):
        register_version(name=model, lineage=record)
    with pytest.raises(LineageError, match="characters, MLflow holds 100000"):
        register_version(name=model, lineage=lineage(digest_of(1), recipe={"name": "x" * 100_000}))
    assert versions_of(model) == []


def test_an_alias_leads_to_its_version(model: str) -> None:
    for number in (1, 2):
        register_version(name=model, lineage=lineage(digest_of(number)))
    with pytest.raises(MlflowError, match=f"no model version models:/{model}@champion"):
        load_version(f"models:/{model}@champion")
    MlflowClient().set_registered_model_alias(model, "champion", "2")
    champion = load_version(f"models:/{model}@champion")
    assert (champion.version, champion.aliases, champion.checkpoint_digest) == (
        "2",
        ("champion",),
        digest_of(2),
    )
    assert champion.uri == f"models:/{model}/2"
    assert load_version(f"models:/{model}/1").aliases == ()


def test_a_version_registered_again_keeps_its_alias(model: str) -> None:
    register_version(name=model, lineage=lineage(digest_of(1)))
    MlflowClient().set_registered_model_alias(model, "champion", "1")
    assert register_version(name=model, lineage=lineage(digest_of(1))).aliases == ("champion",)


def test_what_is_not_there_is_one_line(model: str) -> None:
    with pytest.raises(MlflowError, match=f"no model version models:/{model}/7 in MLflow") as caught:
        load_version(f"models:/{model}/7")
    assert "\n" not in str(caught.value)
    with pytest.raises(MlflowError, match="write models:/NAME@ALIAS"):
        load_version(f"runs:/{model}")
    with pytest.raises(MlflowError, match="model name 'a/b': use letters"):
        register_version(name="a/b", lineage=lineage(digest_of(1)))


def test_a_version_of_someone_else_has_no_lineage(model: str) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    client.create_registered_model(model)
    client.create_model_version(model, "s3://elsewhere/model", await_creation_for=0)
    with pytest.raises(MlflowError, match="was not registered by llava-av"):
        load_version(f"models:/{model}/1")


def refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, float]:
    """The error that a server gives, and the seconds it took."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    with pytest.raises(MlflowError) as caught:
        register_version(name="model", lineage=lineage(digest_of(1)))
    return str(caught.value), time.monotonic() - started


def test_a_server_that_is_down_is_one_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message, seconds = refused(f"http://user:secret@127.0.0.1:{port}", monkeypatch)
    assert f"MLflow at http://127.0.0.1:{port} does not answer" in message
    assert "MLFLOW_TRACKING_URI" in message
    assert "\n" not in message
    assert "secret" not in message
    assert seconds < 10


def test_a_server_that_never_answers_is_one_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message, seconds = refused(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
    assert "does not answer" in message
    assert seconds < 10


def test_without_an_address_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "MLFLOW_TRACKING_URI is not set" in refused("", monkeypatch)[0]
    assert "no://scheme" in refused("no://scheme", monkeypatch)[0]


def test_the_patience_of_the_user_is_left_alone(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "17")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    register_version(name=model, lineage=lineage(digest_of(1)))
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "17"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
