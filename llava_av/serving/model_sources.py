"""Lookup of the model to serve: which version an address means now, and its verified files."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from llava_av.checkpoints import fetch_adapter_base, fetched_folder, folder_digest, read_manifest
from llava_av.errors import UserError
from llava_av.inference.model_source import local_model_folder
from llava_av.registry.history import AliasHistory, holder_of
from llava_av.registry.versions import load_version
from llava_av.serving.limits import ServingLimits
from llava_av.serving.served_model import ModelIdentity, ServedModel, load_served_model
from llava_av.storage import ObjectStore

__all__ = ["ModelSource"]

_REGISTRY = "models:/"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model's address, and how it is served."""

    address: str
    """A folder, `s3://…` of a checkpoint, `models:/NAME/VERSION` or `models:/NAME@ALIAS`."""
    work: Path
    """Folder for fetched models."""
    device: str
    dtype: str
    limits: ServingLimits

    @property
    def follows_alias(self) -> bool:
        """Return whether the address can mean another version later."""
        return self.address.startswith(_REGISTRY) and "@" in self.address

    def present(self) -> str:
        """Return the address of what is to be served now; for an alias, that of its version.

        Raises:
            UserError: No version has the alias, or S3 does not answer.
        """
        if not self.follows_alias:
            return self.address
        name, _, alias = self.address.removeprefix(_REGISTRY).partition("@")
        version = holder_of(AliasHistory(ObjectStore.from_env(), name).moves(), alias)
        if version is None:
            raise UserError(
                f"no version of {name} is {alias}: promote a run with `llava-av promote RUN`, or name a "
                f"version, {_REGISTRY}{name}/VERSION"
            )
        return f"{_REGISTRY}{name}/{version}"

    def load(self, address: str) -> ServedModel:
        """Fetch, verify and load a model.

        Args:
            address: Result of `present`.

        Raises:
            UserError: There is no such model, or it is not the one that was registered.
        """
        folder = local_model_folder(address, self.work)
        base = fetch_adapter_base(folder, self.work)
        identity = _identity(address, folder)
        return load_served_model(
            folder, base, identity, device=self.device, dtype=self.dtype, limits=self.limits
        )

    def discard(self, address: str) -> None:
        """Delete the fetched files of a version that was replaced or refused.

        A loaded model does not need them. They stay if the version cannot be looked up.
        """
        with contextlib.suppress(UserError):
            digest = load_version(ObjectStore.from_env(), address).checkpoint_digest
            shutil.rmtree(fetched_folder(self.work, digest), ignore_errors=True)


def _identity(address: str, folder: Path) -> ModelIdentity:
    if address.startswith(_REGISTRY):
        found = load_version(ObjectStore.from_env(), address)
        return ModelIdentity(name=found.name, version=found.version, digest=found.checkpoint_digest)
    if address.startswith("s3://"):
        digest = read_manifest(ObjectStore.from_env(), address).digest
        return ModelIdentity(name="-".join(address.rstrip("/").split("/")[-2:]), version=None, digest=digest)
    return ModelIdentity(name=Path(address).resolve().name, version=None, digest=folder_digest(folder))
