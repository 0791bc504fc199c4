"""`llava-av data ls`, `tag` and `checkout`: contents, names and copies of commits."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_av.cli.data_options import DatasetArgument, PatternOption, SampleOption, SplitOption
from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir
from llava_av.cli.session import stored_objects
from llava_av.errors import UserError, printable
from llava_av.plurals import count_of
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.datasets.contents import Contents, Selection
    from llava_av.datasets.tags import Tag

__all__ = ["checkout", "ls", "tag"]


def ls(
    dataset: DatasetArgument,
    split: SplitOption = "",
    pattern: PatternOption = "",
    files: Annotated[bool, typer.Option("--files", help="List media files instead of samples.")] = False,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """List the samples of a commit, or its media files."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.contents import Selection, read_contents

    selection = Selection(split=split, pattern=pattern)
    with stored_objects(output_dir, dataset) as store:
        commit = find_commit(store, dataset)
        contents = read_contents(store, commit, selection)
    rows = _file_rows(contents, selection) if files else _sample_rows(contents)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        cells = (" ".join(cell) if isinstance(cell, list) else str(cell) for cell in row.values())
        print(printable("  ".join(cells)))


def _sample_rows(contents: "Contents") -> list[dict[str, Any]]:
    return [
        {"split": split, "id": sample.id, "kind": sample.kind, "media": list(sample.media)}
        for split, samples in contents.samples.items()
        for sample in samples
    ]


def _file_rows(contents: "Contents", selection: "Selection") -> list[dict[str, Any]]:
    return [
        {"sha256": entry.sha256, "bytes": entry.bytes, "path": path}
        for path, entry in contents.files.items()
        if selection.matches(path)
    ]


def tag(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="NAME, NAME@COMMIT or NAME@TAG; NAME lists all tags.")
    ],
    name: Annotated[str, typer.Argument(metavar="TAG", help="Name for the commit.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Move a tag that names another commit.")] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete a tag, given as NAME@TAG; its commit stays.")
    ] = False,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Give a commit a name that can be used instead of its ID; without TAG, list the names of a dataset."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.tags import Tag, delete_tag, list_tags, set_tag
    from llava_av.workflows.runtime.author import author

    owner, _, own_tag = dataset.partition("@")
    if delete and (name or not own_tag):
        raise UserError(
            f"--delete requires a tag as NAME@TAG and nothing else, not {dataset} {name}".rstrip()
        )
    with stored_objects(output_dir, dataset) as store:
        if delete:
            delete_tag(store, owner, own_tag)
        elif name:
            commit = find_commit(store, dataset)
            now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
            set_tag(store, owner, name, Tag(commit=commit.id, at=now, by=author()), force=force)
        else:
            find_commit(store, owner)
        tags = list_tags(store, owner)
    _print_tags(owner, tags, as_json=as_json)


def _print_tags(dataset: str, tags: "dict[str, Tag]", *, as_json: bool) -> None:
    if as_json:
        print_json({name: tag.model_dump(mode="json") for name, tag in tags.items()})
        return
    for name, one in tags.items():
        print(printable(f"{dataset}@{name}  {one.commit}  {one.at:%Y-%m-%d %H:%M:%S %Z}  {one.by}"))
    if not tags:
        print(f"dataset {dataset} has no tags")


def checkout(
    dataset: DatasetArgument,
    folder: Annotated[Path, typer.Argument(help="Folder to create, or to complete.")],
    split: SplitOption = "",
    pattern: PatternOption = "",
    sample: SampleOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files of the folder that have other content.")
    ] = False,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Copy a commit, or a part of it, to a folder that can be edited and committed again."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.contents import Selection
    from llava_av.datasets.extraction import extract
    from llava_av.processes import progress_reporter

    progress = progress_reporter("data", "files downloaded")
    selection = Selection(split=split, pattern=pattern, samples=frozenset(sample or ()))
    with stored_objects(output_dir, dataset, progress=True) as store:
        commit = find_commit(store, dataset)
        found = extract(store, commit, folder, selection, force=force, progress=progress)
    if as_json:
        counts = {"samples": found.samples, "files": found.files, "downloaded": found.downloaded}
        print_json({"name": commit.name, "commit": commit.id, "folder": str(folder), **counts})
        return
    counts_text = f"{count_of(found.samples, 'sample')}, {count_of(found.files, 'media file')}"
    print(f"{folder}: {commit.title}, {counts_text} ({found.downloaded} downloaded)")
