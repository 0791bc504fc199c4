"""Model versions in MLflow: registered once a checkpoint, with lineage, and loaded as S3 registered them."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from llava_av.checkpoints import CheckpointError, verify_checkpoint
from llava_av.errors import UserError
from llava_av.registry.history import CHALLENGER, CHAMPION, AliasHistory, Move, holder_of
from llava_av.registry.lineage import Lineage, missing_parts
from llava_av.registry.registrations import (
    DIGEST_TAG,
    LINEAGE_TAG,
    RegisteredVersion,
    TamperedError,
    is_vouched,
    keep_lineage,
    keep_registration,
    registered_version,
    shown_version,
)
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

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_URI = re.compile(rf"models:/(?P<name>{_NAME.pattern})(?:@(?P<alias>[A-Za-z0-9_-]+)|/(?P<version>[0-9]+))")
_LONGEST_TAG = 100_000  # characters: MLflow's MAX_MODEL_REGISTRY_TAG_VALUE_LENGTH
_ATTEMPTS = 5
# MLflow calls an alias that is not set an invalid value.
_NO_SUCH_VERSION = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class LineageError(UserError):
    """A lineage record that lacks a part."""


def register_version(
    store: ObjectStore,
    *,
    name: str,
    lineage: Mapping[str, Any],
    run_id: str | None = None,
    lineage_uri: str | None = None,
) -> RegisteredVersion:
    """Register the lineage's checkpoint as a version of the model, once for each checkpoint digest.

    A checkpoint that the model already has keeps its first version, with the lineage it was given then; a
    version in MLflow that S3 knows nothing of is passed over. The registration is kept with the run in S3.
    MLflow has no conditional write: of callers that register one checkpoint at the same time each makes a
    version, sees the others', and takes its own back unless it is the lowest; all return the lowest.

    Args:
        store: where the run is.
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
        shown = shown_version(_register_once(store, client, name, record, run_id, lineage_uri))
    aliases = _aliases_of(AliasHistory(store, name).moves(), shown.version)
    registered = RegisteredVersion(name=name, version=shown.version, aliases=aliases, lineage=shown.lineage)
    keep_registration(store, record.run, registered)
    return registered


def load_version(store: ObjectStore, uri: str) -> RegisteredVersion:
    """Find a registered version, and with it the checkpoint's address and digest.

    S3 decides: an alias is where its record of moves has it, and a version is what its run's registration
    says. Where MLflow has an alias elsewhere, a warning says so.

    Args:
        store: where runs and the record of moves are.
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        MlflowError: another form of address, no such version, one that was not registered here, or MLflow
            does not answer.
        TamperedError: the version is not the one that S3 registered.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise MlflowError(f"{uri!r} is not a model version; write models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = match.group("name", "alias", "version")
    history = AliasHistory(store, name)
    moves = history.moves()
    with mlflow_client() as client:
        if alias is not None:
            number = _holder(client, history, moves, alias)
        shown = shown_version(existing_version(client, name, version=number))
    run = next((move.run for move in reversed(moves) if move.version == number and move.run), None)
    return registered_version(store, shown, run=run, aliases=_aliases_of(moves, shown.version))


def _holder(client: MlflowClient, history: AliasHistory, moves: tuple[Move, ...], alias: str) -> str:
    """Return the version that has an alias by S3's record; log a warning if MLflow has it elsewhere."""
    recorded, shown = holder_of(moves, alias), _alias_in_mlflow(client, history.model, alias)
    if recorded is None:
        ignored = "" if shown is None else f", and where MLflow has it (version {shown}) is not trusted"
        raise MlflowError(
            f"there is no model version models:/{history.model}@{alias}: S3 records no move of this alias in "
            f"{history.uri}{ignored}; name a version, or promote a run: `llava-av promote RUN`"
        )
    if shown != recorded:
        _LOG.warning(
            "warning: %s of %s is version %s by the record in S3, which counts; MLflow has it at %s",
            *(alias, history.model, recorded, "no version" if shown is None else f"version {shown}"),
        )
    return recorded


def _alias_in_mlflow(client: MlflowClient, name: str, alias: str) -> str | None:
    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code not in _NO_SUCH_VERSION:
            raise
        return None


def _aliases_of(moves: tuple[Move, ...], version: str) -> tuple[str, ...]:
    return tuple(sorted(alias for alias in (CHALLENGER, CHAMPION) if holder_of(moves, alias) == version))


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
            manifest_sha256=version.manifest_sha256,
            contents=contents,
            only=only,
        )
    except CheckpointError as error:
        raise TamperedError(
            f"{version.uri} is not what was registered: {error}; do not use it: restore the checkpoint "
            "from a backup, or train the run again"
        ) from None


def existing_version(client: MlflowClient, name: str, *, version: str) -> ModelVersion:
    """The version as MLflow has it.

    Raises:
        MlflowError: there is none.
    """
    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in _NO_SUCH_VERSION:
            raise
        raise MlflowError(
            f"there is no model version models:/{name}/{version} in MLflow; register it first"
        ) from None


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _register_once(
    store: ObjectStore,
    client: MlflowClient,
    name: str,
    lineage: Lineage,
    run_id: str | None,
    lineage_uri: str | None,
) -> ModelVersion:
    """The version that holds the checkpoint, made if there is none."""
    digest = lineage.checkpoint.digest
    found = _lowest_version(store, client, name, digest)
    if found is not None:
        return found
    keep_lineage(store, lineage.model_dump(mode="json"))
    own = _create(client, name, lineage, run_id, lineage_uri)
    first = _lowest_version(store, client, name, digest) or own
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


def _lowest_version(store: ObjectStore, client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    """The lowest version with the digest that S3 vouches for: anybody can make others in MLflow."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
    vouched = [version for version in found if is_vouched(store, version)]
    return min(vouched, key=lambda version: int(version.version), default=None)


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
        DIGEST_TAG: lineage.checkpoint.digest,
        LINEAGE_TAG: record,
    }
    if len(record) > _LONGEST_TAG:
        raise LineageError(
            f"the lineage record has {len(record)} characters, MLflow holds {_LONGEST_TAG}: "
            "shorten the recipe"
        )
    if lineage_uri is not None:
        tags["lineage_uri"] = lineage_uri
    return tags
