"""Registrations as S3 records them: what MLflow says about a model version has to agree with them.

Registering leaves `lineage.json`, then a version in MLflow, then `register.json` with the version's number.
Somebody who may write to MLflow but not to the bucket can make versions, tags and aliases, but cannot change
these objects. So a version is valid only if its run's `register.json` names its number, and it is what that
object describes.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from pydantic import ValidationError

from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import MlflowError

__all__ = [
    "DIGEST_TAG",
    "LINEAGE_TAG",
    "RegisteredVersion",
    "ShownVersion",
    "TamperedError",
    "is_vouched",
    "keep_lineage",
    "keep_registration",
    "registered_version",
    "shown_version",
]

# MLflow is searched for the digest, and the record is compared with S3's, so both are tags.
DIGEST_TAG = "checkpoint_digest"
LINEAGE_TAG = "lineage"
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RUN_OF_CHECKPOINT = re.compile(r"s3://[^/]+/checkpoints/([^/]+)/step-\d+/?")


class TamperedError(UserError):
    """A model version that is not the one that was registered."""


class RegisteredVersion(FrozenModel):
    """A registered model version, by its run's registration in S3."""

    name: str
    version: str
    """Number of the version, counted from 1."""
    aliases: tuple[str, ...]
    """Aliases of the version, by the record of moves in S3."""
    lineage: dict[str, Any]
    """The lineage record."""

    @property
    def run(self) -> str | None:
        """Key of the run that made the checkpoint; None for a checkpoint that no run made."""
        return _run_of(self.lineage, self.checkpoint_uri)

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.version}"

    @property
    def checkpoint_uri(self) -> str:
        """`s3://…` of the checkpoint."""
        return str(self.lineage["checkpoint"]["uri"])

    @property
    def checkpoint_digest(self) -> str:
        """Digest of the checkpoint's state."""
        return str(self.lineage["checkpoint"]["digest"])

    @property
    def manifest_sha256(self) -> str | None:
        """Pin of the checkpoint's manifest; None for a version that is older than pins."""
        pin: str | None = self.lineage["checkpoint"].get("manifest_sha256")
        return pin

    def to_json(self) -> dict[str, Any]:
        """Return the layout of register.json."""
        return self.model_dump(mode="json")


class ShownVersion(FrozenModel):
    """A model version as MLflow shows it, which anybody with rights there may have written."""

    name: str
    version: str
    source: str
    digest: str
    lineage: dict[str, Any]

    @property
    def run(self) -> str | None:
        """Key of the run that it claims to be of; by its checkpoint's address if its lineage names none."""
        return _run_of(self.lineage, self.source)

    def differences(self, lineage: Mapping[str, Any]) -> list[str]:
        """Return what differs from a lineage record in S3; the job that trained does not count."""
        checkpoint = lineage["checkpoint"]
        wanted = {"source": checkpoint["uri"], "checkpoint digest": checkpoint["digest"]}
        wanted |= {f"lineage's {name}": value for name, value in lineage.items() if name != "job"}
        found = {"source": self.source, "checkpoint digest": self.digest}
        found |= {f"lineage's {name}": value for name, value in self.lineage.items() if name != "job"}
        return sorted(name for name in wanted | found if wanted.get(name) != found.get(name))


def shown_version(version: ModelVersion) -> ShownVersion:
    """Read what MLflow shows.

    Raises:
        MlflowError: It was not registered by llava-av.
    """
    digest, record = version.tags.get(DIGEST_TAG), version.tags.get(LINEAGE_TAG)
    try:
        lineage = json.loads(record or "")
    except ValueError:
        lineage = None
    if not digest or not isinstance(lineage, dict):
        raise MlflowError(
            f"{version.name} version {version.version} has no lineage; it was not registered by llava-av"
        )
    return ShownVersion(
        name=version.name,
        version=str(version.version),
        source=str(version.source),
        digest=digest,
        lineage=lineage,
    )


def keep_lineage(store: ObjectStore, lineage: Mapping[str, Any]) -> None:
    """Put the lineage that a run is about to be registered with."""
    store.put_json(_key(str(lineage["run"]), "lineage.json"), dict(lineage))


def keep_registration(store: ObjectStore, run: str, version: RegisteredVersion) -> None:
    """Put which version a run is."""
    store.put_json(_key(run, "register.json"), version.to_json())


def registered_version(
    store: ObjectStore, shown: ShownVersion, *, run: str | None, aliases: tuple[str, ...]
) -> RegisteredVersion:
    """Return a version as S3 registered it.

    Args:
        store: Where runs are.
        shown: The version as MLflow shows it.
        run: Key of the run that S3 says it is of; None where only MLflow names one.
        aliases: Aliases of the version, by the record of moves.

    Raises:
        TamperedError: S3 has no such registration, or another one.
    """
    uri = f"models:/{shown.name}/{shown.version}"
    of = run or shown.run
    kept = _registration(store, of)
    if of is None or kept is None:
        raise TamperedError(
            f"{uri} is in MLflow alone: no run in S3 is registered as it (run {of or 'unknown'} has no "
            "register.json); do not use it, or register its run again: `llava-av register RUN`"
        )
    if (kept.name, kept.version) != (shown.name, shown.version):
        raise TamperedError(
            f"{uri} is not what was registered: S3 registered run {of} as {kept.uri}, so this version is a "
            f"copy made in MLflow; use {kept.uri}"
        )
    differing = shown.differences(kept.lineage)
    if differing:
        raise TamperedError(
            f"{uri} is not what was registered: its {', '.join(differing)} in MLflow is not that of "
            f"{store.uri(_key(of, 'register.json'))}; restore MLflow from its backup, or register the run "
            f"again: `llava-av register {of}`"
        )
    return kept.model_copy(update={"aliases": aliases})


def is_vouched(store: ObjectStore, version: ModelVersion) -> bool:
    """Check whether S3 knows a version that is found in MLflow while a run is registered.

    A run's registration vouches for its version; until there is one, the lineage that it is registered with.
    """
    try:
        shown = shown_version(version)
    except MlflowError:
        return False
    kept = _registration(store, shown.run)
    if kept is not None and kept.name == shown.name:
        return kept.version == shown.version and not shown.differences(kept.lineage)
    begun = store.find_json(_key(shown.run, "lineage.json")) if shown.run else None
    return begun is not None and not shown.differences(begun)


def _run_of(lineage: Mapping[str, Any], checkpoint_uri: str) -> str | None:
    found = _RUN_OF_CHECKPOINT.fullmatch(checkpoint_uri)
    run = lineage.get("run") or (found and found[1])
    return run if isinstance(run, str) and _RUN.fullmatch(run) else None


def _registration(store: ObjectStore, run: str | None) -> RegisteredVersion | None:
    if run is None:
        return None
    key = _key(run, "register.json")
    kept = store.find_json(key)
    try:
        return None if kept is None else RegisteredVersion.model_validate(kept)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise TamperedError(
            f"{store.uri(key)} is no registration (field {field}): restore it from a backup"
        ) from None


def _key(run: str, name: str) -> str:
    return f"runs/{run}/{name}"
