"""`llava-av data`: convert files to a dataset, commit datasets to S3, and show them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.options import OutputDir
from llava_av.errors import printable
from llava_av.plurals import count_of
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER, Workspace

if TYPE_CHECKING:
    from llava_av.datasets.commits import Commit

__all__ = ["app"]

_LOG = logging.getLogger(__name__)

app = typer.Typer(
    help="Convert files to datasets, commit datasets to S3, and show them.", no_args_is_help=True
)


@app.command()
def commit(
    folder: Annotated[
        Path, typer.Argument(help="Folder with conversations.jsonl (or one JSON array) and its media.")
    ],
    name: Annotated[str, typer.Option(help="Name of the dataset (default: the folder's name).")] = "",
    held_out_share: Annotated[
        float, typer.Option(help="Share of the samples to hold out for evaluation.")
    ] = 0.1,
    max_bad_share: Annotated[float, typer.Option(help="Maximum share of unusable samples to accept.")] = 0.05,
    allow_shared_media: Annotated[
        bool,
        typer.Option(
            "--allow-shared-media", help="Allow held-out samples to share media with training samples."
        ),
    ] = False,
    rebase: Annotated[
        bool,
        typer.Option("--rebase", help="If another writer commits meanwhile, keep the changes of both."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="If another writer commits meanwhile, replace the other content."),
    ] = False,
    rehash: Annotated[
        bool,
        typer.Option("--rehash", help="Read and check files again whose size, times and inode are known."),
    ] = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Check a folder, skip unusable samples, and commit the rest as an immutable version."""
    from llava_av.cli.display import console_progress
    from llava_av.cli.session import session
    from llava_av.recipe import DataRecipe
    from llava_av.storage import ObjectStore
    from llava_av.workflows.commit_data import commit_folder

    if rebase and force:
        raise typer.BadParameter("--rebase and --force are mutually exclusive; use one of them")
    settings = DataRecipe(held_out_share=held_out_share, max_bad_share=max_bad_share)
    with session(output_dir, need_mlflow=False), console_progress():
        store = ObjectStore.from_env()
        store.ensure_bucket()
        committed = commit_folder(
            store,
            folder,
            name,
            settings,
            allow_shared_media=allow_shared_media,
            on_conflict="rebase" if rebase else "force" if force else "fail",
            cache_file=None if rehash else Workspace(folder=output_dir.absolute()).file_cache,
        )
    print(f"{committed.name}@{committed.id} ({_upload_summary(committed)})")


def _upload_summary(committed: "Commit") -> str:
    uploaded = f"{count_of(committed.uploaded_files, 'file')} uploaded"
    if not committed.unchanged:
        return uploaded
    return f"unchanged; {uploaded} that the store had lost" if committed.uploaded_files else "unchanged"


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="File to convert: .csv, .tsv, .json or .jsonl.")],
    target: Annotated[Path, typer.Argument(help="New conversations.jsonl, in the folder of the media.")],
) -> None:
    """Convert tables, messages, query/response pairs or ShareGPT conversations to conversations.jsonl."""
    from llava_av.datasets.sources.convert import convert_file

    converted = convert_file(source, target)
    print(f"{count_of(converted.samples, 'sample')} written to {target}")
    if converted.system_prompts:
        prompts = count_of(converted.system_prompts, "system prompt")
        _LOG.warning("%s prepended to the first question", prompts)


@app.command()
def show(
    dataset: Annotated[str, typer.Argument(help="NAME (its newest commit) or NAME@COMMIT.")],
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Show the contents of a commit."""
    from llava_av.cli.session import require_state, session
    from llava_av.datasets.commits import find_commit
    from llava_av.storage import ObjectStore

    require_state(output_dir, dataset)
    with session(output_dir, need_mlflow=False):
        committed = find_commit(ObjectStore.from_env(), dataset)
    files = committed.manifest.files
    print(f"{committed.name}@{committed.id}")
    print(f"{count_of(len(files), 'file')}, {count_of(sum(file.bytes for file in files.values()), 'byte')}")
    for split, entry in committed.manifest.splits.items():
        print(f"{split}: {entry}")
    for bad in committed.manifest.quarantined:
        print(printable(f"left out: {bad.file}: {bad.reason}"))
