"""Base class of all objects of a run, and the error for an invalid object."""

from typing import ClassVar

from pydantic import ConfigDict, JsonValue

from llava_av.errors import UserError
from llava_av.frozen import FrozenModel

__all__ = ["TRAIN_COMMAND", "Artifact", "ArtifactError", "ArtifactPart"]

TRAIN_COMMAND = "train RECIPE --dataset NAME"


class ArtifactError(UserError):
    """An object of a run that does not have the form of its kind."""


class ArtifactPart(FrozenModel):
    """A part of an artifact. Fields that another version of this program wrote are ignored."""

    model_config = ConfigDict(extra="ignore")


class Artifact(ArtifactPart):
    """A JSON object below `runs/<run>/`; fields that earlier versions did not write have defaults."""

    NAME: ClassVar[str]
    """Name of the object within the run."""
    COMMAND: ClassVar[str] = TRAIN_COMMAND
    """`llava-av` command that writes it, with `{run}` in place of the run ID."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the content of the object in S3."""
        return self.model_dump(mode="json", by_alias=True)
