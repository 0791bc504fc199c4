"""Model versions in MLflow: registered once a checkpoint, with lineage, and loaded as S3 registered them."""

import logging
import re

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from llava_av.checkpoints import CheckpointError, verify_checkpoint
from llava_av.errors import UserError
from llava_av.plurals import listed
from llava_av.registry.history import CHALLENGER, CHAMPION, AliasHistory, Move, holder_of
from llava_av.registry.lineage_collection import missing_parts
from llava_av.registry.registrations import (
    DIGEST_TAG,
    LINEAGE_TAG,
    TamperedError,
    is_vouched,
    registered_version,
    shown_version,
)
from llava_av.runs import Lineage, Registration, Run, named_datasets
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import MlflowError, mlflow_client

__all__ = [
    "LineageError",
    "TamperedError",
    "existing_version",
    "load_version",
    "record_registration",
    "register_version",
    "require_untouched",
]

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_URI = re.compile(rf"models:/(?P<name>{_NAME.pattern})(?:@(?P<alias>[A-Za-z0-9_-]+)|/(?P<version>[0-9]+))")
_LONGEST_TAG = 100_000  # characters: MLflow's MAX_MODEL_REGISTRY_TAG_VALUE_LENGTH
_ATTEMPTS = 5
_SEARCHED, _NAMED = 1000, 10
"""Numbers of versions that are searched for, and named in a message."""
# MLflow calls an alias that is not set an invalid value.
_NO_SUCH_VERSION = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class LineageError(UserError):
    """A lineage record that lacks a part."""


def register_version(
    store: ObjectStore,
    *,
    name: str,
    lineage: Lineage,
    run_id: str | None = None,
) -> Registration:
    """Register the lineage's checkpoint as a version of the model, once for each checkpoint digest.

    A checkpoint that the model already has keeps its first version, with the lineage of that registration;
    versions in MLflow that S3 does not vouch for are ignored. The registration is written to the run in S3.
    MLflow has no conditional write: if several callers register one checkpoint at the same time, each creates
    a version, sees those of the others, and deletes its own unless it is the lowest; all return the lowest.

    Args:
        store: Store of the run.
        name: Name of the registered model, created if it does not exist.
        lineage: The record.
        run_id: MLflow run of the training, if it has one.

    Raises:
        LineageError: The record lacks parts; the message names them.
        MlflowError: MLflow does not allow the name, does not answer, or refuses.
    """
    if not _NAME.fullmatch(name):
        raise MlflowError(f"model name {name!r}: use letters, digits, '.', '_' and '-'")
    missing = missing_parts(lineage.to_json())
    if missing or lineage.run is None:
        raise LineageError(f"model {name} is not registered: its lineage lacks {', '.join(missing)}")
    run = Run(store=store, id=lineage.run)
    with mlflow_client() as client:
        _ensure_model(client, name)
        shown = shown_version(_register_once(run, client, name, lineage, run_id))
    aliases = _aliases_of(AliasHistory(store, name).moves(), shown.version)
    registered = Registration(name=name, version=shown.version, aliases=aliases, lineage=shown.lineage)
    run.write(registered)
    return registered


def load_version(store: ObjectStore, uri: str) -> Registration:
    """Find a registered version, and with it the checkpoint's address and digest.

    S3 decides: its record of moves has the aliases, and a version is what its run's registration says. If
    MLflow has an alias at another version, a warning says so.

    Args:
        store: Store of the runs and of the record of moves.
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        MlflowError: The address has another form, the version does not exist or was not registered here, or
            MLflow does not answer.
        TamperedError: The version is not the one that S3 registered.
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


def record_registration(run: Run, uri: str) -> Registration:
    """Write the registration of a run again, with the aliases that its version has now; return it.

    Raises:
        MlflowError: The version does not exist, or MLflow does not answer.
        TamperedError: The version is not the one that S3 registered.
    """
    registered = load_version(run.store, uri)
    run.write(registered)
    return registered


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
    store: ObjectStore, version: Registration, *, contents: bool = True, only: str = ""
) -> None:
    """Require that the checkpoint of a version is, byte for byte, the one that was registered.

    Args:
        store: Store of the checkpoints.
        version: The version.
        contents: True to read every file, not only the manifest, which has their checksums.
        only: Prefix of the names of the files to read.

    Raises:
        TamperedError: It is not; the message names the version and the difference.
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
    """Return a version as MLflow has it.

    Raises:
        MlflowError: It does not exist.
    """
    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in _NO_SUCH_VERSION:
            raise
        raise MlflowError(
            f"there is no model version models:/{name}/{version} in MLflow; {_existing(client, name)}"
        ) from None


def _existing(client: MlflowClient, name: str) -> str:
    """Return which versions of a model exist, the newest first."""
    found = client.search_model_versions(f"name = '{name}'", max_results=_SEARCHED)
    numbers = sorted((int(version.version) for version in found), reverse=True)
    if not numbers:
        return f"{name} has no versions yet: register a run with `llava-av register RUN`"
    return f"existing are {listed(list(map(str, numbers)), _NAMED)}"


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _register_once(
    run: Run, client: MlflowClient, name: str, lineage: Lineage, run_id: str | None
) -> ModelVersion:
    """Return the version that has the checkpoint, created if it does not exist."""
    digest = lineage.checkpoint.digest
    found = _lowest_version(run.store, client, name, digest)
    if found is not None:
        return found
    run.write(lineage)
    own = _create(client, name, lineage, run_id, run.store.uri(run.path(Lineage.NAME)))
    first = _lowest_version(run.store, client, name, digest) or own
    if int(first.version) < int(own.version):
        client.delete_model_version(name, str(own.version))
    return first


def _create(
    client: MlflowClient, name: str, lineage: Lineage, run_id: str | None, lineage_uri: str
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
    """Return the lowest version with the digest that S3 vouches for; anybody can create others in MLflow."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
    vouched = [version for version in found if is_vouched(store, version)]
    return min(vouched, key=lambda version: int(version.version), default=None)


def _tags(lineage: Lineage, lineage_uri: str) -> dict[str, str]:
    """Return the record as one tag, and the parts that people search for as tags of their own."""
    record = lineage.model_dump_json(by_alias=True)
    best = lineage.checkpoint.best_step
    tags = {
        **({} if best is None else {"step": str(lineage.checkpoint.step), "best_step": str(best)}),
        "dataset": named_datasets(lineage.datasets),
        "git_commit": lineage.git.commit or f"none: {lineage.git.note}",
        "git_dirty": str(lineage.git.dirty).lower(),
        "code_digest": lineage.code_digest,
        "recipe": str(lineage.recipe_json.get("name", "")),
        "seed": str(lineage.seed),
        "experiment": lineage.experiment.id,
        "experiment_incomplete": "; ".join(lineage.experiment.incomplete) or "no",
        "run": str(lineage.run),
        DIGEST_TAG: lineage.checkpoint.digest,
        LINEAGE_TAG: record,
        "lineage_uri": lineage_uri,
    }
    if len(record) > _LONGEST_TAG:
        raise LineageError(
            f"the lineage record has {len(record)} characters, MLflow holds {_LONGEST_TAG}: "
            "shorten the recipe"
        )
    return tags
