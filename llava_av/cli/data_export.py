"""`llava-av data export`: shards of a commit in the formats of other tools."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llava_av.cli.data_options import DatasetArgument, PatternOption, SplitOption
from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir
from llava_av.cli.session import stored_objects
from llava_av.plurals import count_of
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

__all__ = ["export"]

_BYTES_PER_MB = 1_000_000


def export(
    dataset: DatasetArgument,
    folder: Annotated[Path, typer.Argument(help="Folder to create.")],
    form: Annotated[Literal["webdataset", "parquet"], typer.Option("--format", help="Format of the shards.")],
    shard_mb: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum size of a shard, unless one sample is larger.")
    ] = 1000,
    split: SplitOption = "",
    pattern: PatternOption = "",
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Write a commit, or a part of it, as WebDataset tars or Parquet files."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.contents import Selection
    from llava_av.datasets.exports.exporting import export as export_commit
    from llava_av.processes import report_progress

    selection = Selection(split=split, pattern=pattern)
    with stored_objects(output_dir, dataset, progress=True) as store:
        commit = find_commit(store, dataset)
        found = export_commit(
            store,
            commit,
            folder,
            form,
            shard_bytes=shard_mb * _BYTES_PER_MB,
            selection=selection,
            progress=lambda done, total: report_progress("data", done, total, "shards written"),
        )
    counts = {"samples": found.samples, "shards": found.shards, "reused": found.reused}
    if as_json:
        print_json({"name": commit.name, "commit": commit.id, "folder": str(folder), **counts})
        return
    text = f"{count_of(found.samples, 'sample')} in {count_of(found.shards, 'shard')} ({found.reused} reused)"
    print(f"{folder}: {commit.title}, {text}")
