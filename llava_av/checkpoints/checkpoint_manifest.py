"""Manifest of a checkpoint, which names its files, and the keys of both in the bucket."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.storage.seals import SealBroken, unseal

__all__ = [
    "ADVICE",
    "CheckpointError",
    "CheckpointFile",
    "CheckpointManifest",
    "CheckpointRef",
    "CheckpointState",
    "checkpoint_manifest_key",
    "checkpoint_prefix",
    "parse_checkpoint_manifest",
    "run_prefix",
    "step_of",
]

ADVICE = "use another checkpoint, or delete this one (manifest.json first) to resume from the previous one"
_MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d{8,})/")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class CheckpointError(UserError):
    """A checkpoint that is missing, incomplete or altered, or conflicts with another one of its step."""


def _relative_name(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or str(path) != name or name == _MANIFEST:
        raise ValueError(f"{name!r} is not a file name inside a checkpoint")
    return name


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, AfterValidator(_relative_name)]


class CheckpointFile(FrozenModel):
    """One file of a checkpoint."""

    sha256: Sha256
    """SHA-256 of its content, in hex."""
    bytes: int = Field(ge=0)
    """Length of its content."""


class CheckpointState(FrozenModel):
    """Identity of the state in the files of a checkpoint."""

    digest: Sha256
    """`state_digest` of tensors, optimizer, random states and data position, and nothing else."""
    data_position: dict[str, JsonValue]
    """Position at which the data order continues, as JSON."""


class CheckpointManifest(FrozenModel):
    """Manifest of a checkpoint; it is written last, so a checkpoint with a manifest is complete."""

    version: Literal[1] = 1
    """Version of this schema."""
    step: int = Field(ge=0)
    """Completed optimizer steps."""
    digest: Sha256
    """Digest of the state; equal states have equal digests even if their files differ."""
    files: dict[FileName, CheckpointFile]
    """Files by name, relative to the checkpoint."""
    data_position: dict[str, JsonValue]
    """Position at which the data order continues."""
    extra: dict[str, JsonValue]
    """Further data for the reader, such as the recipe; not part of the digest."""


class CheckpointRef(FrozenModel):
    """Reference to one complete checkpoint."""

    uri: str
    """s3://BUCKET/checkpoints/RUN/step-NNNNNNNN"""
    step: int
    """Completed optimizer steps."""
    digest: Sha256
    """Digest of the state."""


def run_prefix(run: str) -> str:
    """Return the prefix of the keys of all checkpoints of a run.

    Raises:
        CheckpointError: The run ID cannot be part of a key.
    """
    if not _RUN.fullmatch(run):
        raise CheckpointError(f"{run!r} cannot name a run: use letters, digits, dots, dashes and underscores")
    return f"checkpoints/{run}/"


def checkpoint_prefix(run: str, step: int) -> str:
    """Return the prefix of the keys of one checkpoint; steps sort as text."""
    return f"{run_prefix(run)}step-{step:08d}/"


def checkpoint_manifest_key(prefix: str) -> str:
    """Return the key of the manifest of the checkpoint with this prefix."""
    return f"{prefix}{_MANIFEST}"


def step_of(run: str, key: str) -> int | None:
    """Return the step of the checkpoint to which an object of a run belongs, or None."""
    match = _STEP.match(key.removeprefix(run_prefix(run)))
    return int(match.group(1)) if match else None


def parse_checkpoint_manifest(data: bytes, uri: str) -> CheckpointManifest:
    """Parse a manifest.

    Raises:
        CheckpointError: It is not a manifest of this schema; the text names the first problem.
    """
    try:
        return CheckpointManifest.model_validate_json(unseal(_MANIFEST, data).content)
    except SealBroken:
        raise CheckpointError(
            f"checkpoint {uri}: manifest.json is damaged (it does not match its checksum): {ADVICE}"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CheckpointError(
            f"checkpoint {uri}: manifest.json is damaged ({where}: {first['msg']}): {ADVICE}"
        ) from None
