"""Checkpoints in S3: files first, manifest last, so a checkpoint is complete and verified or does not exist.

`checkpoint_manifest` defines a checkpoint: its files, the digest of its state, and its keys in the bucket.
`digest` computes digests of values, independent of container, device and memory layout. `shard_index` says
which process's file holds which elements of a training's state, and `shard_files` writes, hashes and reads
such files; it needs torch, so it is not imported here. `writing` uploads a checkpoint and prunes old ones;
`fetching` finds the newest complete one and downloads it. `finite_weights` searches weights for NaN and
infinity. `base_model` finds, verifies and uploads the model that a training starts from, and `adapter_base`
finds the one that an adapter belongs to.
"""

from llava_av.checkpoints.adapter_base import (
    AdapterBase,
    base_in_store,
    fetch_adapter_base,
    stored_adapter_base,
)
from llava_av.checkpoints.base_model import (
    base_digest,
    base_folder,
    fetch_base,
    folder_digest,
    push_base,
    read_base_config,
)
from llava_av.checkpoints.checkpoint_manifest import (
    CheckpointError,
    CheckpointFile,
    CheckpointManifest,
    CheckpointRef,
    CheckpointState,
)
from llava_av.checkpoints.digest import state_digest
from llava_av.checkpoints.fetching import (
    fetch_checkpoint,
    fetched_folder,
    has_model,
    latest_checkpoint,
    model_files,
    read_manifest,
    verify_checkpoint,
    whole_checkpoints,
)
from llava_av.checkpoints.writing import Writers, prune, write_checkpoint

__all__ = [
    "AdapterBase",
    "CheckpointError",
    "CheckpointFile",
    "CheckpointManifest",
    "CheckpointRef",
    "CheckpointState",
    "Writers",
    "base_digest",
    "base_folder",
    "base_in_store",
    "fetch_adapter_base",
    "fetch_base",
    "fetch_checkpoint",
    "fetched_folder",
    "folder_digest",
    "has_model",
    "latest_checkpoint",
    "model_files",
    "prune",
    "push_base",
    "read_base_config",
    "read_manifest",
    "state_digest",
    "stored_adapter_base",
    "verify_checkpoint",
    "whole_checkpoints",
    "write_checkpoint",
]
