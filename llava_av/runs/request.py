"""Objects that opening a run writes: the request, the code and the actor."""

from collections.abc import Iterable
from functools import cached_property
from typing import ClassVar

from pydantic import AwareDatetime, Field, JsonValue, field_serializer

from llava_av.provenance.source_code import GitLineage
from llava_av.recipe import Recipe
from llava_av.runs.artifact_base import Artifact, ArtifactPart

__all__ = ["DatasetName", "ExperimentName", "Opened", "RunCode", "RunRequest", "named_datasets"]

SHA256 = r"^[0-9a-f]{64}$"


class DatasetName(ArtifactPart):
    """A dataset commit."""

    name: str = Field(min_length=1)
    commit: str = Field(min_length=1)

    def __str__(self) -> str:
        """Return `NAME@COMMIT`."""
        return f"{self.name}@{self.commit}"


def named_datasets(datasets: Iterable[DatasetName]) -> str:
    """Return datasets as the option `--dataset` takes them: `NAME@COMMIT,NAME@COMMIT`."""
    return ",".join(map(str, datasets))


class ExperimentName(ArtifactPart):
    """An experiment record at the time when the run was opened."""

    id: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern=SHA256)
    """Digest of the record; None for a run of a version that did not pin records."""
    incomplete: tuple[str, ...] = ()
    """Parts that the record lacked; jobs on a cluster require `--allow-incomplete-record` then."""


class RunRequest(Artifact):
    """request.json: the recipe, dataset and experiment of a run."""

    NAME: ClassVar[str] = "request.json"

    run: str
    recipe_json: dict[str, JsonValue] = Field(alias="recipe")
    """Recipe as written by the version that opened the run; `reproduce` passes it to that version's code."""
    dataset: DatasetName
    """Dataset commit that the run is evaluated on, and trained on."""
    further_datasets: tuple[DatasetName, ...] = ()
    """Further dataset commits that it is trained on."""
    experiment: ExperimentName

    @property
    def datasets(self) -> tuple[DatasetName, ...]:
        """Return all dataset commits, first the one that the run is evaluated on."""
        return (self.dataset, *self.further_datasets)

    @cached_property
    def recipe(self) -> Recipe:
        """Return the validated recipe."""
        return Recipe.model_validate(self.recipe_json)

    @property
    def recipe_name(self) -> str:
        """Return the recipe's name, even if this version cannot read the recipe."""
        return str(self.recipe_json["name"])

    @property
    def seed(self) -> int | None:
        """Return the recipe's seed, even if this version cannot read the recipe."""
        seed = self.recipe_json.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def base_model(self) -> str | None:
        """Return the address of the recipe's base model, even if this version cannot read the recipe."""
        model = self.recipe_json.get("model")
        base = model.get("base") if isinstance(model, dict) else None
        return base if isinstance(base, str) else None


class RunCode(Artifact):
    """code.json: the code of a run. Its patch is in code.patch."""

    NAME: ClassVar[str] = "code.json"

    digest: str
    """Digest of the Python files."""
    git: GitLineage


class Opened(Artifact):
    """opened.json: who opened the run, and when."""

    NAME: ClassVar[str] = "opened.json"

    by: str
    at: AwareDatetime

    @field_serializer("at", when_used="json")
    def _to_seconds(self, at: AwareDatetime) -> str:
        return at.isoformat(timespec="seconds")
