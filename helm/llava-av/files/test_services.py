"""`helm test` of S3 and MLflow: use both as a job does, then remove the test's objects."""

import json
import uuid
from pathlib import Path

from llava_av.storage import ObjectStore
from llava_av.tracking.connection import mlflow_client

NAME = f"helm-test-{uuid.uuid4().hex[:8]}"


def main() -> None:
    use_s3(ObjectStore.from_env())
    use_mlflow()


def use_s3(store: ObjectStore) -> None:
    """Check creating, conditionally replacing and reading an object."""
    key = f"helm-test/{NAME}"
    try:
        assert store.create(key, b"first"), "a new object was not created"
        assert not store.create(key, b"second"), "an existing object was created again"
        value, etag = store.get_with_etag(key)
        assert value == b"first", value
        assert store.replace(key, b"third", etag), "an object was not replaced although its ETag matched"
        assert not store.replace(key, b"fourth", etag), "an object was replaced despite an outdated ETag"
        assert store.get_bytes(key) == b"third"
    finally:
        store.delete(key)
    print("S3: put, conditional writes, read", flush=True)


def use_mlflow() -> None:
    """Create a run with a metric and an artifact, a model version and an alias, and read them back."""
    with mlflow_client() as client:
        experiment = client.create_experiment(NAME)
        try:
            run = client.create_run(experiment)
            client.log_metric(run.info.run_id, "loss", 0.5)
            client.log_dict(run.info.run_id, {"a": 1}, "test.json")
            client.set_terminated(run.info.run_id)
            client.create_registered_model(NAME)
            version = client.create_model_version(NAME, f"s3://nowhere/{NAME}", run.info.run_id)
            client.set_registered_model_alias(NAME, "champion", version.version)
            found = client.get_model_version_by_alias(NAME, "champion")
            assert (found.version, found.run_id) == (version.version, run.info.run_id), found
            assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}
            artifact = Path(client.download_artifacts(run.info.run_id, "test.json", "/tmp"))
            assert json.loads(artifact.read_text()) == {"a": 1}
            client.delete_registered_model(NAME)
        finally:
            client.delete_experiment(experiment)
    print("MLflow: run, metric, artifact, registration, alias", flush=True)


if __name__ == "__main__":
    main()
