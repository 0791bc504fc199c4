"""The one record that says where a model came from: data, code, recipe, machine and experiment."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from llava_av.frozen import FrozenModel
from llava_av.provenance.environment import Environment
from llava_av.provenance.source_code import CodeState, GitLineage
from llava_av.recipe import Recipe

__all__ = [
    "CheckpointLineage",
    "DatasetLineage",
    "ExperimentLineage",
    "JobLineage",
    "Lineage",
    "collect_lineage",
    "missing_parts",
]

_SHA256 = r"^[0-9a-f]{64}$"


class DatasetLineage(FrozenModel):
    """The data."""

    name: str = Field(min_length=1)
    commit: str = Field(min_length=1)


class CheckpointLineage(FrozenModel):
    """The weights."""

    uri: str = Field(min_length=1)
    digest: str = Field(pattern=_SHA256)
    """Digest of its state, not of its files."""
    manifest_sha256: str = Field(pattern=_SHA256)
    """sha256 of the bytes of its manifest, which has that of every file: nothing in it can change unseen."""


class ExperimentLineage(FrozenModel):
    """The experiment record."""

    id: str = Field(min_length=1)
    sha256: str = Field(pattern=_SHA256)
    incomplete: tuple[str, ...] = ()
    """What the record lacked when the run was opened; a run on a cluster then needed to be told to go on."""


class JobLineage(FrozenModel):
    """What ran the training."""

    name: str | None
    """PyTorchJob; None for processes of one machine."""
    pipeline_run: str | None
    """Run of the pipeline on a backend; None outside of one."""


class Lineage(FrozenModel):
    """Everything that a model version came from."""

    run: str = Field(min_length=1)
    """Key of the run, under which everything that its steps left lies."""
    job: JobLineage
    dataset: DatasetLineage
    git: GitLineage
    recipe: dict[str, Any] = Field(min_length=1)
    """The whole recipe as JSON."""
    seed: int
    checkpoint: CheckpointLineage
    experiment: ExperimentLineage
    code_digest: str = Field(pattern=_SHA256)
    """sha256 over the Python files that ran."""
    environment: Environment
    """What training ran in."""


def collect_lineage(
    *,
    run: str,
    pipeline_run: str | None,
    dataset_name: str,
    dataset_commit: str,
    recipe: Recipe,
    checkpoint_uri: str,
    checkpoint_digest: str,
    manifest_sha256: str,
    experiment: Mapping[str, Any],
    code: CodeState,
    environment: Mapping[str, Any],
) -> Lineage:
    """Joins all that a model came from.

    Args:
        run: key of the run.
        pipeline_run: id of the pipeline's run on a backend, if it was one.
        dataset_name: name of the dataset.
        dataset_commit: id of its commit.
        recipe: the recipe of the run.
        checkpoint_uri: where the checkpoint is.
        checkpoint_digest: its digest.
        manifest_sha256: of the bytes of its manifest, as `verify_checkpoint` gave it.
        experiment: the record's `id`, `sha256` and what it lacked, as the run's request has it.
        code: what `code_state()` gave; its patch is the caller's to store.
        environment: what training ran in, as `this_environment()` gave it there.
    """
    ran_in = Environment.model_validate(environment)
    return Lineage(
        run=run,
        job=JobLineage(name=ran_in.job, pipeline_run=pipeline_run),
        dataset=DatasetLineage(name=dataset_name, commit=dataset_commit),
        git=code.git,
        recipe=recipe.model_dump(mode="json"),
        seed=recipe.seed,
        checkpoint=CheckpointLineage(
            uri=checkpoint_uri, digest=checkpoint_digest, manifest_sha256=manifest_sha256
        ),
        experiment=ExperimentLineage.model_validate(experiment),
        code_digest=code.digest,
        environment=ran_in,
    )


def missing_parts(record: Mapping[str, Any]) -> list[str]:
    """The parts that a lineage record lacks, by dotted name; empty if it is whole.

    A part is lacking if it is absent, empty or of the wrong form. A git commit may be null if the note says
    why, but a dirty checkout must have its patch.
    """
    try:
        lineage = Lineage.model_validate(record)
    except ValidationError as error:
        return list(dict.fromkeys(".".join(str(part) for part in item["loc"]) for item in error.errors()))
    missing = []
    if lineage.git.dirty and lineage.git.patch_sha256 is None:
        missing.append("git.patch_sha256")
    if lineage.git.commit is None and not lineage.git.note:
        missing.append("git.commit")
    return missing
