"""Model versions in MLflow: registered once a checkpoint, with lineage, and found by number or alias."""

import json
import re
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, ConfigDict

from llava_av.checkpoints import CheckpointError, verify_checkpoint
from llava_av.errors import UserError
from llava_av.registry.lineage import Lineage, missing_parts
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import MlflowError, mlflow_client

__all__ = [
    "LineageError",
    "RegisteredVersion",
    "TamperedError",
    "existing_version",
    "load_version",
    "register_version",
    "require_untouched",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_URI = re.compile(rf"models:/(?P<name>{_NAME.pattern})(?:@(?P<alias>[A-Za-z0-9_-]+)|/(?P<version>[0-9]+))")
# the digest is searched for and the record read back, so both are tags
_DIGEST_TAG = "checkpoint_digest"
_LINEAGE_TAG = "lineage"
_LONGEST_TAG = 100_000  # characters: MLflow's MAX_MODEL_REGISTRY_TAG_VALUE_LENGTH
_ATTEMPTS = 5


class LineageError(UserError):
    """A lineage record that lacks a part."""


class TamperedError(UserError):
    """A model version whose checkpoint is not the one that was registered."""


class RegisteredVersion(BaseModel):
    """A model version as MLflow holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    version: str
    """Number of the version, counted from 1."""
    aliases: tuple[str, ...]
    checkpoint_uri: str
    checkpoint_digest: str
    lineage: dict[str, Any]
    """The lineage record."""

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.version}"

    def to_json(self) -> dict[str, Any]:
        """The layout of register.json."""
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "lineage": self.lineage,
        }


def register_version(
    *, name: str, lineage: Mapping[str, Any], run_id: str | None = None, lineage_uri: str | None = None
) -> RegisteredVersion:
    """Registers the lineage's checkpoint as a version of the model, once for each checkpoint digest.

    A checkpoint that the model already has keeps its first version, with the lineage it was given then.
    MLflow has no conditional write: of callers that register one checkpoint at the same time each makes a
    version, sees the others', and takes its own back unless it is the lowest; all return the lowest.

    Args:
        name: name of the registered model, made if it does not exist.
        lineage: the record, as `Lineage` dumps to JSON.
        run_id: MLflow run of the training, if it has one.
        lineage_uri: where the record and the patch lie in the object store, for whoever reads the tags.

    Raises:
        LineageError: the record lacks parts; the message names them.
        MlflowError: a name that MLflow cannot hold, MLflow does not answer, or refuses.
    """
    if not _NAME.fullmatch(name):
        raise MlflowError(f"model name {name!r}: use letters, digits, '.', '_' and '-'")
    missing = missing_parts(lineage)
    if missing:
        raise LineageError(f"model {name} is not registered, its lineage lacks: {', '.join(missing)}")
    record = Lineage.model_validate(lineage)
    with mlflow_client() as client:
        _ensure_model(client, name)
        return _described(client, _register_once(client, name, record, run_id, lineage_uri))


def load_version(uri: str) -> RegisteredVersion:
    """Finds a registered version, and with it the checkpoint's address and digest.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        MlflowError: another form of address, no such version, one that was not registered here, or MLflow
            does not answer.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise MlflowError(f"{uri!r} is not a model version; write models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = match.group("name", "alias", "version")
    with mlflow_client() as client:
        return _described(client, existing_version(client, name, alias=alias, version=version))


def require_untouched(
    store: ObjectStore, version: RegisteredVersion, *, contents: bool = True, only: str = ""
) -> None:
    """Requires that the checkpoint of a version is, byte for byte, the one that was registered.

    Args:
        store: where checkpoints are.
        version: the version.
        contents: whether to read every file; without it the manifest alone, which names what files must be.
        only: of the files those that are read, by how their names begin.

    Raises:
        TamperedError: it is not; the text names the version and what differs.
    """
    try:
        verify_checkpoint(
            store,
            version.checkpoint_uri,
            digest=version.checkpoint_digest,
            manifest_sha256=version.lineage["checkpoint"].get("manifest_sha256"),
            contents=contents,
            only=only,
        )
    except CheckpointError as error:
        raise TamperedError(
            f"{version.uri} is not what was registered: {error}; do not use it: restore the checkpoint "
            "from a backup, or train the run again"
        ) from None


def existing_version(
    client: MlflowClient, name: str, *, alias: str | None = None, version: str | None = None
) -> ModelVersion:
    """The version by its alias, or by its number.

    Raises:
        MlflowError: there is none.
    """
    try:
        if alias is not None:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, str(version))
    except MlflowException as error:
        # MLflow calls an alias that is not set an invalid value
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        uri = f"models:/{name}@{alias}" if alias is not None else f"models:/{name}/{version}"
        raise MlflowError(f"there is no model version {uri} in MLflow; register it first") from None


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _register_once(
    client: MlflowClient, name: str, lineage: Lineage, run_id: str | None, lineage_uri: str | None
) -> ModelVersion:
    """The version that holds the checkpoint, made if there is none."""
    digest = lineage.checkpoint.digest
    found = _lowest_version(client, name, digest)
    if found is not None:
        return found
    own = _create(client, name, lineage, run_id, lineage_uri)
    first = _lowest_version(client, name, digest) or own
    if int(first.version) < int(own.version):
        client.delete_model_version(name, str(own.version))
    return first


def _create(
    client: MlflowClient, name: str, lineage: Lineage, run_id: str | None, lineage_uri: str | None
) -> ModelVersion:
    for attempt in range(_ATTEMPTS):
        try:
            return client.create_model_version(
                name,
                lineage.checkpoint.uri,
                run_id=run_id,
                tags=_tags(lineage, lineage_uri),
                await_creation_for=0,
            )
        except MlflowException as error:
            # MLflow gives up after three lost races for the next version number
            if error.error_code != "INTERNAL_ERROR" or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the loop returns or raises")


def _lowest_version(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    found = client.search_model_versions(f"name = '{name}' and tags.`{_DIGEST_TAG}` = '{digest}'")
    return min(found, key=lambda version: int(version.version), default=None)


def _tags(lineage: Lineage, lineage_uri: str | None) -> dict[str, str]:
    """The record as one tag, and what people look and search for in the list as tags of their own."""
    record = lineage.model_dump_json()
    tags = {
        "dataset": f"{lineage.dataset.name}@{lineage.dataset.commit}",
        "git_commit": lineage.git.commit or f"none: {lineage.git.note}",
        "git_dirty": str(lineage.git.dirty).lower(),
        "code_digest": lineage.code_digest,
        "recipe": str(lineage.recipe.get("name", "")),
        "seed": str(lineage.seed),
        "experiment": lineage.experiment.id,
        "experiment_incomplete": "; ".join(lineage.experiment.incomplete) or "no",
        "run": lineage.run,
        _DIGEST_TAG: lineage.checkpoint.digest,
        _LINEAGE_TAG: record,
    }
    if len(record) > _LONGEST_TAG:
        raise LineageError(
            f"the lineage record has {len(record)} characters, MLflow holds {_LONGEST_TAG}: "
            "shorten the recipe"
        )
    if lineage_uri is not None:
        tags["lineage_uri"] = lineage_uri
    return tags


def _described(client: MlflowClient, version: ModelVersion) -> RegisteredVersion:
    # a version out of a search comes without its aliases
    whole = client.get_model_version(version.name, str(version.version))
    digest, record = whole.tags.get(_DIGEST_TAG), whole.tags.get(_LINEAGE_TAG)
    if not digest or not record:
        raise MlflowError(
            f"{whole.name} version {whole.version} has no lineage; it was not registered by llava-av"
        )
    return RegisteredVersion(
        name=whole.name,
        version=str(whole.version),
        aliases=tuple(sorted(whole.aliases)),
        checkpoint_uri=whole.source,
        checkpoint_digest=digest,
        lineage=json.loads(record),
    )
