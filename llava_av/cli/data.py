"""`llava-av data`: convert files to a dataset, commit datasets to S3, and show them.

The commands about versions of a dataset are in `data_history`, `data_copies`, `data_checks`,
`data_export`, `data_list`, `data_statistics`, `data_view` and `data_derive`.
"""

import gc
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_av.cli import (
    data_checks,
    data_copies,
    data_derive,
    data_export,
    data_history,
    data_list,
    data_statistics,
    data_view,
)
from llava_av.cli.data_options import (
    AllowSharedMedia,
    AuthorOption,
    CheckOption,
    DatasetArgument,
    HeldOutShare,
    MaxBadShare,
    MessageOption,
    Rehash,
    pending_text,
)
from llava_av.cli.display import print_json
from llava_av.cli.options import (
    LOCAL_PROFILE,
    AsJson,
    LauncherName,
    OutputDir,
    ProfileChanges,
    ProfileName,
    chosen_target,
)
from llava_av.cli.session import stored_objects
from llava_av.errors import printable
from llava_av.plurals import count_of
from llava_av.processes import set_variables
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.datasets.commits import OnConflict
    from llava_av.datasets.reading import ContentReader
    from llava_av.workflows.ingest.request import CommitSummary

__all__ = ["app"]

_LOG = logging.getLogger(__name__)

app = typer.Typer(
    help="Convert files to datasets, commit datasets to S3, and show them.", no_args_is_help=True
)
_OBJECTS_PER_COLLECTION = 50_000
_THREADS = "OPENBLAS_NUM_THREADS"


@app.callback()
def _save_cpu_time(context: typer.Context) -> None:
    # Tables of files and samples have no reference cycles; looking for some took a tenth of a commit.
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    # NumPy starts threads for linear algebra, which is not used here; idle ones spin.
    context.with_resource(set_variables({_THREADS: os.environ.get(_THREADS, "1")}))


@app.command()
def commit(
    folder: Annotated[
        str,
        typer.Argument(
            help="Folder with conversations.jsonl (or one JSON array) and its media, or s3://BUCKET/PREFIX."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the dataset (default: the folder's name).")] = "",
    held_out_share: HeldOutShare = 0.1,
    max_bad_share: MaxBadShare = 0.05,
    allow_shared_media: AllowSharedMedia = False,
    message: MessageOption = "",
    author: AuthorOption = "",
    rebase: Annotated[
        bool,
        typer.Option("--rebase", help="If another writer commits meanwhile, keep the changes of both."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="If another writer commits meanwhile, replace the other content."),
    ] = False,
    check: CheckOption = "full",
    rehash: Rehash = False,
    launcher: LauncherName = "local",
    processes: Annotated[int, typer.Option(min=1, help="Processes that read the files, as one job.")] = 1,
    profile: ProfileName = LOCAL_PROFILE,
    job: ProfileChanges = None,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Check a folder, skip unusable samples, and commit the rest as an immutable version."""
    from llava_av.cli.data_commit import commit_source
    from llava_av.workflows.ingest.request import CommitRequest

    request = CommitRequest(
        source=folder,
        name=name,
        held_out_share=held_out_share,
        max_bad_share=max_bad_share,
        allow_shared_media=allow_shared_media,
        on_conflict=_on_conflict(rebase=rebase, force=force),
        depth=check,
        again=rehash,
        message=message,
        author=author,
    )
    committed = commit_source(request, chosen_target(launcher, profile, job), processes, output_dir)
    if as_json:
        print_json(committed.model_dump(mode="json"))
    else:
        print(f"{committed.name}@{committed.commit} ({_upload_summary(committed)})")


def _on_conflict(*, rebase: bool, force: bool) -> "OnConflict":
    if rebase and force:
        raise typer.BadParameter("--rebase and --force are mutually exclusive; use one of them")
    return "rebase" if rebase else "force" if force else "fail"


def _upload_summary(committed: "CommitSummary") -> str:
    uploaded = f"{count_of(committed.uploaded_files, 'file')} uploaded"
    if not committed.unchanged:
        return uploaded
    return f"unchanged; {uploaded} that the store had lost" if committed.uploaded_files else "unchanged"


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="File to convert: .csv, .tsv, .json, .jsonl, .parquet or .tar, or a folder of the last two."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="New conversations.jsonl, in the folder of the media.")],
    as_json: AsJson = False,
) -> None:
    """Convert tables, messages, ShareGPT, Parquet or WebDataset tars to a folder's conversations.jsonl."""
    from llava_av.datasets.sources.convert import BadRowsError, convert_file

    try:
        converted = convert_file(source, target)
    except BadRowsError as error:
        for reason in error.reasons:
            _LOG.error("%s", printable(reason))
        if error.left:
            _LOG.error("and %s", count_of(error.left, "more row"))
        raise
    if as_json:
        print_json({"file": str(target), **asdict(converted)})
    else:
        media = f" with {count_of(converted.media_files, 'media file')}" if converted.media_files else ""
        print(f"{count_of(converted.samples, 'sample')}{media} written to {target}")
    for ending, members in converted.ignored.items():
        _LOG.warning("%s of type %s ignored", count_of(members, "member"), printable(ending))
    if converted.system_prompts:
        prompts = count_of(converted.system_prompts, "system prompt")
        _LOG.warning("%s prepended to the first question", prompts)


@app.command()
def show(dataset: DatasetArgument, as_json: AsJson = False, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """Show the contents of a commit."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.pending_checks import pending_files

    with stored_objects(output_dir, dataset) as store:
        committed = find_commit(store, dataset)
        content = _content_json(committed.reader(store)) if as_json else {}
        pending = pending_files(store, committed)
    manifest = committed.manifest
    if as_json:
        print_json(
            {
                "name": committed.name,
                "commit": committed.id,
                "parent": committed.parent,
                "pending": len(pending.digests),
            }
            | content
        )
        return
    print(f"{committed.name}@{committed.id}")
    print(f"{count_of(manifest.file_count, 'file')}, {count_of(manifest.total_bytes, 'byte')}")
    for split, entry in manifest.splits.items():
        print(f"{split}: {entry}")
    for bad in manifest.quarantined:
        print(printable(f"left out: {bad.file}: {bad.reason}"))
    for line in pending_text(len(pending.digests), dataset):
        print(line)


def _content_json(content: "ContentReader") -> dict[str, Any]:
    from llava_av.datasets.manifest import list_path

    samples = {split: sum(one.rows for one in content.samples(split).ranges) for split in content.splits}
    return {
        "files": {row.path: {"sha256": row.sha256, "bytes": row.bytes} for row in content.files},
        "splits": {split: {"file": list_path(split), "samples": count} for split, count in samples.items()},
        "quarantined": [bad.model_dump(mode="json") for bad in content.quarantined],
    }


app.command("list")(data_list.list_datasets)
app.command()(data_history.log)
app.command()(data_history.diff)
app.command()(data_history.status)
app.command()(data_copies.ls)
app.command()(data_copies.tag)
app.command()(data_copies.checkout)
app.command()(data_export.export)
app.command()(data_statistics.stats)
app.command()(data_view.view)
app.command()(data_derive.merge)
app.command("filter")(data_derive.filter_)
app.command()(data_checks.verify)
app.command()(data_checks.gc)
