"""Checkpoints in S3: files first, manifest last; whole and verified, or not there at all."""

from llava_av.checkpoints.base_model import base_digest, base_folder, fetch_base, push_base
from llava_av.checkpoints.digest import state_digest
from llava_av.checkpoints.manifest import (
    CheckpointError,
    CheckpointFile,
    CheckpointManifest,
    CheckpointRef,
    CheckpointState,
)
from llava_av.checkpoints.reading import (
    fetch_checkpoint,
    latest_checkpoint,
    read_manifest,
    verify_checkpoint,
    whole_checkpoints,
)
from llava_av.checkpoints.writing import Writers, prune, write_checkpoint

__all__ = [
    "CheckpointError",
    "CheckpointFile",
    "CheckpointManifest",
    "CheckpointRef",
    "CheckpointState",
    "Writers",
    "base_digest",
    "base_folder",
    "fetch_base",
    "fetch_checkpoint",
    "latest_checkpoint",
    "prune",
    "push_base",
    "read_manifest",
    "state_digest",
    "verify_checkpoint",
    "whole_checkpoints",
    "write_checkpoint",
]
