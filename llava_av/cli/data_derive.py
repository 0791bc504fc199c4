"""`llava-av data merge` and `filter`: commits that are derived from other commits, without their media."""

from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.data_options import (
    AuthorOption,
    DatasetArgument,
    MessageOption,
    PatternOption,
    SplitOption,
)
from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir
from llava_av.cli.session import stored_objects
from llava_av.plurals import count_of
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.workflows.derive_commits import Derived

__all__ = ["filter_", "merge"]

Into = Annotated[
    str, typer.Option("--into", metavar="NAME", help="Dataset to commit to; it is created if necessary.")
]


def merge(
    datasets: Annotated[
        list[str],
        typer.Argument(metavar="DATASET", help="Commits as NAME (the newest), NAME@COMMIT or NAME@TAG."),
    ],
    into: Into,
    prefix: Annotated[
        bool,
        typer.Option("--prefix", help="Prefix each sample ID and media path with the name of its dataset."),
    ] = False,
    leave_out_shared: Annotated[
        bool,
        typer.Option(
            "--leave-out-shared", help="Leave out training samples that share media with a held-out sample."
        ),
    ] = False,
    message: MessageOption = "",
    author: AuthorOption = "",
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Commit the union of several commits, without downloading their media."""
    from llava_av.workflows.derive_commits import merge_commits

    with stored_objects(output_dir, " ".join(datasets)) as store:
        derived = merge_commits(
            store,
            datasets,
            into,
            prefix=prefix,
            leave_out_shared=leave_out_shared,
            message=message,
            author=author,
        )
    _print(derived, as_json=as_json)


def filter_(
    dataset: DatasetArgument,
    into: Into,
    split: SplitOption = "",
    pattern: PatternOption = "",
    kind: Annotated[str, typer.Option(help="Only samples of this kind, or of this family of kinds.")] = "",
    modalities: Annotated[
        str, typer.Option(help="Only samples with these modalities, such as 'video+audio'.")
    ] = "",
    min_duration: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="S", help="Only samples with videos or audio files, each of at least S seconds."
        ),
    ] = None,
    max_duration: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="S", help="Only samples with videos or audio files, each of at most S seconds."
        ),
    ] = None,
    message: MessageOption = "",
    author: AuthorOption = "",
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Commit the samples of a commit that meet conditions, without downloading their media."""
    from llava_av.datasets.filtering import Conditions
    from llava_av.workflows.derive_commits import filter_commit

    conditions = Conditions(
        split=split,
        pattern=pattern,
        kind=kind,
        modalities=modalities,
        min_duration_s=min_duration,
        max_duration_s=max_duration,
    )
    with stored_objects(output_dir, dataset) as store:
        derived = filter_commit(store, dataset, into, conditions, message=message, author=author)
    _print(derived, as_json=as_json)


def _print(derived: "Derived", *, as_json: bool) -> None:
    commit, manifest = derived.commit, derived.commit.manifest
    samples = {split: part.samples for split, part in manifest.splits.items()}
    if as_json:
        print_json(
            {
                "name": commit.name,
                "commit": commit.id,
                "parent": commit.parent,
                "unchanged": commit.unchanged,
                "samples": samples,
                "left_out": derived.left_out,
                "sources": list(derived.sources),
            }
        )
        return
    counts = ", ".join(f"{number} {split}" for split, number in samples.items())
    print(f"{commit.name}@{commit.id} ({'unchanged; ' if commit.unchanged else ''}{counts})")
    print(f"from {', '.join(derived.sources)}")
    if derived.left_out:
        print(f"left out: {count_of(derived.left_out, 'training sample')} with media of held-out samples")
