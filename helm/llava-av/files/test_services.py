"""`helm test`: use S3 and MLflow as a job does, with a job's variables, and remove what was made."""

import uuid

from llava_av.storage import ObjectStore
from llava_av.tracking.connection import mlflow_client

NAME = f"helm-test-{uuid.uuid4().hex[:8]}"


def main() -> None:
    use_s3(ObjectStore.from_env())
    use_mlflow()


def use_s3(store: ObjectStore) -> None:
    """An object is made once, replaced by whoever knows it, and read."""
    key = f"helm-test/{NAME}"
    try:
        assert store.create(key, b"first"), "an object that is not there was not made"
        assert not store.create(key, b"second"), "an object was made twice"
        value, etag = store.get_with_etag(key)
        assert value == b"first", value
        assert store.replace(key, b"third", etag), "an object was not replaced"
        assert not store.replace(key, b"fourth", etag), "an object was replaced by who did not know it"
        assert store.get_bytes(key) == b"third"
    finally:
        store.delete(key)
    print("S3: put, conditional writes, read", flush=True)


def use_mlflow() -> None:
    """A run with a metric, a model version and its alias."""
    with mlflow_client() as client:
        experiment = client.create_experiment(NAME)
        try:
            run = client.create_run(experiment)
            client.log_metric(run.info.run_id, "loss", 0.5)
            client.set_terminated(run.info.run_id)
            client.create_registered_model(NAME)
            version = client.create_model_version(NAME, f"s3://nowhere/{NAME}", run.info.run_id)
            client.set_registered_model_alias(NAME, "champion", version.version)
            found = client.get_model_version_by_alias(NAME, "champion")
            assert (found.version, found.run_id) == (version.version, run.info.run_id), found
            assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}
            client.delete_registered_model(NAME)
        finally:
            client.delete_experiment(experiment)
    print("MLflow: run, metric, registration, alias", flush=True)


if __name__ == "__main__":
    main()
