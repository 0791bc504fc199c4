"""Registering, promoting and loading model versions with a real MLflow server."""

import json
import os
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mlflow import MlflowClient

from llava_av.registry.aliases import promote
from llava_av.registry.history import AliasHistory
from llava_av.registry.versions import (
    LineageError,
    TamperedError,
    load_version,
    register_version,
)
from llava_av.runs import GateDecision, Lineage, Registration
from llava_av.storage import ObjectStore, StoreSettings
from llava_av.tracking.connection import MlflowError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def lineage(digest: str, **changed: Any) -> dict[str, Any]:
    return {
        "run": digest[-16:],
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


def whole(digest: str, **changed: Any) -> Lineage:
    return Lineage.model_validate(lineage(digest, **changed))


def digest_of(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def store(mlflow_store: ObjectStore) -> ObjectStore:
    return mlflow_store


@pytest.fixture
def model(store: ObjectStore) -> str:
    """Return a model name that no other test uses."""
    return f"model-{uuid.uuid4().hex[:12]}"


def versions_of(model: str) -> list[int]:
    found = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).search_model_versions(f"name = '{model}'")
    return sorted(int(version.version) for version in found)


def give(store: ObjectStore, model: str, version: str) -> None:
    """Make a version champion."""
    about = {"before": None, "reason": "test", "by": "test"}
    promote(AliasHistory(store, model), version, GateDecision(passed=True), **about)


def test_a_version_holds_its_whole_lineage(store: ObjectStore, model: str) -> None:
    record = lineage(digest_of(1))
    registered = register_version(store, name=model, lineage=Lineage.model_validate(record))
    assert registered == Registration(name=model, version="1", aliases=(), lineage=record)
    about = (registered.run, registered.checkpoint_uri, registered.checkpoint_digest)
    assert about == (record["run"], record["checkpoint"]["uri"], digest_of(1))
    assert load_version(store, f"models:/{model}/1") == registered
    assert json.loads(json.dumps(registered.to_json()))["lineage"] == record
    tags = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_model_version(model, "1").tags
    assert {key: tags[key] for key in ("dataset", "git_commit", "git_dirty", "seed", "lineage_uri")} == {
        "dataset": f"demo@{'d' * 64}",
        "git_commit": "c" * 40,
        "git_dirty": "true",
        "seed": "0",
        "lineage_uri": store.uri(f"runs/{record['run']}/lineage.json"),
    }


def test_the_run_of_the_training_is_named(store: ObjectStore, model: str) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment(model)).info.run_id
    register_version(store, name=model, lineage=whole(digest_of(1)), run_id=run_id)
    assert client.get_model_version(model, "1").run_id == run_id


def test_a_checkpoint_is_registered_once_for_a_model(store: ObjectStore, model: str) -> None:
    first = register_version(store, name=model, lineage=whole(digest_of(1)))
    again = register_version(store, name=model, lineage=whole(digest_of(1), seed=5))
    other = register_version(store, name=model, lineage=whole(digest_of(2)))
    elsewhere = register_version(store, name=f"{model}.other", lineage=whole(digest_of(1)))
    assert again == first
    assert (first.version, other.version, elsewhere.version) == ("1", "2", "1")
    assert versions_of(model) == [1, 2]


def test_many_at_once_register_each_checkpoint_once(store: ObjectStore, model: str) -> None:
    digests = [digest_of(number % 3) for number in range(9)]
    with ThreadPoolExecutor(len(digests)) as pool:
        records = [whole(digest) for digest in digests]
        done = list(pool.map(lambda record: register_version(store, name=model, lineage=record), records))
    by_digest = {(version.checkpoint_digest, version.version) for version in done}
    assert len(by_digest) == 3
    assert versions_of(model) == sorted(int(version) for _, version in by_digest)


def test_an_incomplete_lineage_is_refused_by_the_names_of_its_gaps(store: ObjectStore, model: str) -> None:
    git = {"commit": None, "dirty": True, "patch_sha256": None, "note": None}
    record = Lineage.model_validate(unpinned(lineage(digest_of(1), git=git)))
    gaps = r"lacks checkpoint\.manifest_sha256, git\.patch_sha256, git\.commit$"
    with pytest.raises(LineageError, match=gaps):
        register_version(store, name=model, lineage=Lineage.model_validate(record))
    with pytest.raises(LineageError, match="characters, MLflow holds 100000"):
        register_version(
            store,
            name=model,
            lineage=whole(digest_of(1), recipe={"name": "x" * 100_000}),
        )
    assert versions_of(model) == []


def test_an_alias_leads_to_its_version(store: ObjectStore, model: str) -> None:
    for number in (1, 2):
        register_version(store, name=model, lineage=whole(digest_of(number)))
    with pytest.raises(MlflowError, match=f"no model version models:/{model}@champion"):
        load_version(store, f"models:/{model}@champion")
    give(store, model, "2")
    champion = load_version(store, f"models:/{model}@champion")
    assert (champion.version, champion.aliases, champion.checkpoint_digest) == (
        "2",
        ("champion",),
        digest_of(2),
    )
    assert champion.uri == f"models:/{model}/2"
    assert load_version(store, f"models:/{model}/1").aliases == ()


def test_a_version_registered_again_keeps_its_alias(store: ObjectStore, model: str) -> None:
    register_version(store, name=model, lineage=whole(digest_of(1)))
    give(store, model, "1")
    assert register_version(store, name=model, lineage=whole(digest_of(1))).aliases == ("champion",)


def test_what_is_not_there_is_one_line(store: ObjectStore, model: str) -> None:
    with pytest.raises(MlflowError, match=f"no model version models:/{model}/7 in MLflow") as caught:
        load_version(store, f"models:/{model}/7")
    assert "\n" not in str(caught.value)
    assert f"{model} has no versions" in str(caught.value)
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    client.create_registered_model(model)
    for _ in range(12):
        client.create_model_version(model, "s3://llava-av/any", await_creation_for=0)
    with pytest.raises(MlflowError, match=r"/77 .*existing are 12, 11, 10, 9, 8, 7, 6, 5, 4, 3 and 2 more$"):
        load_version(store, f"models:/{model}/77")
    with pytest.raises(MlflowError, match="write models:/NAME@ALIAS"):
        load_version(store, f"runs:/{model}")
    with pytest.raises(MlflowError, match="model name 'a/b': use letters"):
        register_version(store, name="a/b", lineage=whole(digest_of(1)))


def test_a_version_of_someone_else_has_no_lineage(store: ObjectStore, model: str) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    client.create_registered_model(model)
    client.create_model_version(model, "s3://elsewhere/model", await_creation_for=0)
    with pytest.raises(MlflowError, match="was not registered by llava-av"):
        load_version(store, f"models:/{model}/1")


def forge(client: MlflowClient, model: str, of: str, source: str = "", **changed: str) -> str:
    """Make a version as somebody can who may write to MLflow and not to the bucket; its number.

    Its tags are those of another version, as far as they are not changed.
    """
    tags = {**client.get_model_version(model, of).tags, **changed}
    source = source or client.get_model_version(model, of).source
    return str(client.create_model_version(model, source, tags=tags, await_creation_for=0).version)


def unpinned(record: dict[str, Any]) -> dict[str, Any]:
    """Return a lineage record in the form of the first version."""
    checkpoint = {key: value for key, value in record["checkpoint"].items() if key != "manifest_sha256"}
    return {**record, "checkpoint": checkpoint}


def forged_versions(model: str) -> dict[str, str]:
    """Versions that S3 never registered, by their numbers, and what is said of each."""
    client, record = MlflowClient(), lineage(digest_of(1))
    elsewhere = "s3://llava-av/checkpoints/forged/step-00000001"
    other = json.dumps(unpinned({**record, "checkpoint": {"uri": elsewhere, "digest": digest_of(9)}}))
    nowhere = json.dumps({**record, "run": "unknown"})
    return {
        forge(client, model, "1"): f"S3 registered run {record['run']} as models:/{model}/1",
        forge(client, model, "1", elsewhere): "is a copy made in MLflow",
        forge(client, model, "1", lineage=json.dumps(unpinned(record))): "is a copy made in MLflow",
        forge(client, model, "1", elsewhere, lineage=other): "is a copy made in MLflow",
        forge(client, model, "1", lineage=nowhere): "run unknown has no register.json",
        forge(client, model, "1", lineage=json.dumps({**record, "run": "../../x"})): "run unknown has no",
    }


def test_a_version_that_was_made_in_mlflow_alone_is_not_loaded(store: ObjectStore, model: str) -> None:
    register_version(store, name=model, lineage=whole(digest_of(1)))
    for version, said in forged_versions(model).items():
        with pytest.raises(TamperedError, match=said):
            load_version(store, f"models:/{model}/{version}")


def test_an_alias_that_was_moved_in_mlflow_alone_is_not_followed(
    store: ObjectStore, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    registered = register_version(store, name=model, lineage=whole(digest_of(1)))
    forged = forge(MlflowClient(), model, "1", "s3://llava-av/checkpoints/forged/step-00000001")
    MlflowClient().set_registered_model_alias(model, "champion", forged)
    with pytest.raises(MlflowError, match=rf"S3 records no move .* \(version {forged}\) is not trusted"):
        load_version(store, f"models:/{model}@champion")
    give(store, model, "1")
    assert load_version(store, f"models:/{model}@champion").uri == registered.uri
    assert "MLflow has it at" not in caplog.text
    for moved in (forged, None):
        if moved is None:
            MlflowClient().delete_registered_model_alias(model, "champion")
        else:
            MlflowClient().set_registered_model_alias(model, "champion", moved)
        caplog.clear()
        found = load_version(store, f"models:/{model}@champion")
        assert (found.uri, found.checkpoint_uri) == (registered.uri, registered.checkpoint_uri)
        where = "no version" if moved is None else f"version {moved}"
        assert f"is version 1 by the record in S3, which counts; MLflow has it at {where}" in caplog.text


@pytest.mark.parametrize("tag", ["checkpoint_digest", "lineage"])
def test_tags_that_were_changed_in_mlflow_are_noticed(store: ObjectStore, model: str, tag: str) -> None:
    for number in (1, 2):
        register_version(store, name=model, lineage=whole(digest_of(number)))
    client = MlflowClient()
    client.set_model_version_tag(model, "2", tag, client.get_model_version(model, "1").tags[tag])
    with pytest.raises(TamperedError, match=f"models:/{model}/2 is not what was registered"):
        load_version(store, f"models:/{model}/2")
    # The advice helps: the run gets a version that S3 registers, and the other one stays refused.
    assert register_version(store, name=model, lineage=whole(digest_of(2))).version == "3"
    assert load_version(store, f"models:/{model}/3").checkpoint_digest == digest_of(2)


def test_a_version_that_was_forged_before_a_run_is_registered_is_passed_over(
    store: ObjectStore, model: str
) -> None:
    register_version(store, name=model, lineage=whole(digest_of(1)))
    record = lineage(digest_of(2))
    copied = {"checkpoint_digest": digest_of(2), "lineage": json.dumps(record)}
    forge(MlflowClient(), model, "1", "s3://llava-av/checkpoints/forged/step-00000001", **copied)
    forge(MlflowClient(), model, "1", record["checkpoint"]["uri"], **copied, run="another")
    client = MlflowClient()
    tags = {"checkpoint_digest": digest_of(2)}
    client.create_model_version(model, "s3://elsewhere/model", tags=tags, await_creation_for=0)
    registered = register_version(store, name=model, lineage=Lineage.model_validate(record))
    # The third is what the run's own version is, so nothing else is made.
    assert registered.version == "3"
    assert load_version(store, registered.uri).checkpoint_uri == record["checkpoint"]["uri"]


def test_a_version_of_before_there_were_pins_is_loaded_as_unpinned(store: ObjectStore, model: str) -> None:
    record = lineage(digest_of(1))
    register_version(store, name=model, lineage=Lineage.model_validate(record))
    client = MlflowClient()
    client.set_model_version_tag(model, "1", "lineage", json.dumps(unpinned(record)))
    with pytest.raises(TamperedError, match="its lineage's checkpoint in MLflow is not that of"):
        load_version(store, f"models:/{model}/1")
    old = {"name": model, "version": "1", "aliases": ["champion"], "lineage": unpinned(record)}
    store.put_bytes(f"runs/{record['run']}/register.json", json.dumps(old).encode())
    found = load_version(store, f"models:/{model}/1")
    assert (found.manifest_sha256, found.aliases) == (None, ())
    assert register_version(store, name=model, lineage=Lineage.model_validate(record)) == found


def refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, float]:
    """Return the error for a server, and the seconds until it was raised."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    store = ObjectStore(StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"))
    with pytest.raises(MlflowError) as caught:
        register_version(store, name="model", lineage=whole(digest_of(1)))
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


def test_the_patience_of_the_user_is_left_alone(
    store: ObjectStore, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "17")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    register_version(store, name=model, lineage=whole(digest_of(1)))
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "17"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
