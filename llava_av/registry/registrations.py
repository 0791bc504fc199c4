"""Registrations as S3 records them: what MLflow says about a model version must agree with them.

Registering writes `lineage.json`, then a version in MLflow, then `register.json` with the version's number.
Somebody who may write to MLflow but not to the bucket can create versions, tags and aliases, but cannot
change these objects. So a version is valid only if its run's `register.json` names its number, and it is what
that object describes.
"""

import json
from collections.abc import Mapping

from mlflow.entities.model_registry import ModelVersion
from pydantic import JsonValue

from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.runs import ArtifactError, CheckpointLineage, Lineage, Registration, Run
from llava_av.runs.registration import run_of
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import MlflowError

__all__ = [
    "DIGEST_TAG",
    "LINEAGE_TAG",
    "ShownVersion",
    "TamperedError",
    "is_vouched",
    "registered_version",
    "shown_version",
]

# MLflow is searched for the digest, and the record is compared with S3's, so both are tags.
DIGEST_TAG = "checkpoint_digest"
LINEAGE_TAG = "lineage"


class TamperedError(UserError):
    """A model version that is not the one that was registered."""


class ShownVersion(FrozenModel):
    """A model version as MLflow shows it; anybody who may write to MLflow may have written it."""

    name: str
    version: str
    source: str
    digest: str
    lineage: dict[str, JsonValue]

    @property
    def run(self) -> str | None:
        """Return the run ID that it claims; that of its checkpoint's address if its lineage has none."""
        return run_of(self.lineage.get("run"), self.source)

    def differences(self, lineage: Mapping[str, object]) -> list[str]:
        """Return the parts that differ from a lineage record in S3, except the job that trained."""
        checkpoint = CheckpointLineage.model_validate(lineage["checkpoint"])
        wanted: dict[str, object] = {"source": checkpoint.uri, "checkpoint digest": checkpoint.digest}
        wanted |= {f"lineage's {name}": value for name, value in lineage.items() if name != "job"}
        found: dict[str, object] = {"source": self.source, "checkpoint digest": self.digest}
        found |= {f"lineage's {name}": value for name, value in self.lineage.items() if name != "job"}
        return sorted(name for name in wanted | found if wanted.get(name) != found.get(name))


def shown_version(version: ModelVersion) -> ShownVersion:
    """Read a version of MLflow.

    Raises:
        MlflowError: Version was not registered by llava-av.
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


def registered_version(
    store: ObjectStore, shown: ShownVersion, *, run: str | None, aliases: tuple[str, ...]
) -> Registration:
    """Return a version as S3 registered it.

    Args:
        store: Store of the runs.
        shown: The version as MLflow shows it.
        run: ID of the version's run by S3's record of moves; None if only MLflow names a run.
        aliases: Aliases of the version, by the record of moves.

    Raises:
        TamperedError: S3 has no such registration, or a different one.
    """
    uri = f"models:/{shown.name}/{shown.version}"
    of = run or shown.run
    kept = _registration(store, of)
    if of is None or kept is None:
        raise TamperedError(
            f"{uri} exists in MLflow only: no run in S3 is registered as it (run {of or 'unknown'} has no "
            f"{Registration.NAME}): do not use it, or register its run again: `llava-av register RUN`"
        )
    if (kept.name, kept.version) != (shown.name, shown.version):
        raise TamperedError(
            f"{uri} is not what was registered: S3 registered run {of} as {kept.uri}, so this version is a "
            f"copy made in MLflow: use {kept.uri}"
        )
    differing = shown.differences(kept.lineage_json)
    if differing:
        raise TamperedError(
            f"{uri} is not what was registered: its {', '.join(differing)} in MLflow is not that of "
            f"{store.uri(Run(store=store, id=of).path(Registration.NAME))}: restore MLflow from its backup, "
            f"or register the run again: `llava-av register {of}`"
        )
    return kept.model_copy(update={"aliases": aliases})


def is_vouched(store: ObjectStore, version: ModelVersion) -> bool:
    """Check whether S3 knows a version that is found in MLflow while a run is registered.

    A run's registration vouches for its version; until it exists, the lineage that is to be registered.
    """
    try:
        shown = shown_version(version)
    except MlflowError:
        return False
    kept = _registration(store, shown.run)
    if kept is not None and kept.name == shown.name:
        return kept.version == shown.version and not shown.differences(kept.lineage_json)
    begun = store.find_json(Run(store=store, id=shown.run).path(Lineage.NAME)) if shown.run else None
    return begun is not None and not shown.differences(begun)


def _registration(store: ObjectStore, run: str | None) -> Registration | None:
    """Return the registration of a run with a valid lineage; None if it has none."""
    if run is None:
        return None
    found = Run(store=store, id=run)
    try:
        kept = found.find(Registration)
        if kept is not None:
            _ = kept.lineage
    except (ArtifactError, ValueError) as error:
        raise TamperedError(f"{error}: restore it from a backup") from None
    return kept
