"""`llava-av data log`, `diff` and `status`: the history of a dataset, and differences of its versions."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_av.cli.data_options import (
    AllowSharedMedia,
    CheckOption,
    DatasetArgument,
    HeldOutShare,
    MaxBadShare,
    Rehash,
    pending_text,
)
from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir
from llava_av.cli.session import stored_objects
from llava_av.errors import printable
from llava_av.plurals import count_of
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER, Workspace

if TYPE_CHECKING:
    from llava_av.datasets.comparison import Changes, ContentChanges, Counts
    from llava_av.datasets.history import LoggedCommit
    from llava_av.workflows.dataset_status import FolderStatus

__all__ = ["diff", "log", "status"]

_MOST_NAMES = 20


def log(dataset: DatasetArgument, as_json: AsJson = False, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """Show the commits of a dataset, the newest first."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.history import read_log
    from llava_av.datasets.tags import list_tags

    with stored_objects(output_dir, dataset) as store:
        newest = find_commit(store, dataset)
        entries = list(read_log(store, newest))
        tags = list_tags(store, newest.name)
    named = {
        one.commit.id: [name for name, tag in tags.items() if tag.commit == one.commit.id] for one in entries
    }
    if as_json:
        print_json([_logged_json(one) | {"tags": named[one.commit.id]} for one in entries])
        return
    print("\n\n".join(_logged_text(one, named[one.commit.id]) for one in entries))


def _logged_json(logged: "LoggedCommit") -> dict[str, Any]:
    commit, entry = logged.commit, logged.entry
    return {
        "commit": commit.id,
        "parent": commit.parent,
        "at": entry.at.isoformat() if entry else None,
        "author": entry.author if entry else None,
        "message": entry.message if entry else None,
        "operation": entry.operation if entry else "",
        "sources": list(entry.sources) if entry else [],
        "samples": {split: part.samples for split, part in commit.manifest.splits.items()},
        "left_out": len(commit.manifest.quarantined),
        "files": commit.manifest.file_count,
        "bytes": commit.manifest.total_bytes,
    }


def _logged_text(logged: "LoggedCommit", tags: list[str]) -> str:
    commit, entry = logged.commit, logged.entry
    samples = ", ".join(f"{part.samples} {split}" for split, part in commit.manifest.splits.items())
    manifest = commit.manifest
    files = f"{count_of(manifest.file_count, 'file')}, {count_of(manifest.total_bytes, 'byte')}"
    lines = [f"{commit.name}@{commit.id}" + (f" (tags: {', '.join(tags)})" if tags else "")]
    if entry is None:
        lines.append("  time and author unknown: an earlier version committed it")
    else:
        lines.append(f"  {entry.at:%Y-%m-%d %H:%M:%S %Z}  {printable(entry.author)}")
    lines.append(f"  {samples}; {files}")
    if entry is not None and entry.operation:
        lines.append(f"  {printable(entry.operation)}: from {', '.join(entry.sources)}")
    if entry is not None and entry.message:
        lines += [f"  {printable(line)}" for line in entry.message.splitlines()]
    return "\n".join(lines)


def diff(
    before: DatasetArgument,
    after: Annotated[
        str, typer.Argument(metavar="DATASET", help="Dataset to compare with: NAME, NAME@COMMIT or NAME@TAG.")
    ],
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Compare two commits: samples and files that were added, removed or changed, and counts."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.comparison import compare_contents, compared_commit

    with stored_objects(output_dir, before) as store:
        first, second = find_commit(store, before), find_commit(store, after)
        changes = compare_contents(compared_commit(store, first), compared_commit(store, second))
    names = {"from": f"{first.name}@{first.id}", "to": f"{second.name}@{second.id}"}
    if as_json:
        print_json(names | asdict(changes))
        return
    print(f"from {names['from']}\nto   {names['to']}")
    print("\n".join(_changes_text(changes)))


def status(
    folder: Annotated[
        Path, typer.Argument(help="Folder with conversations.jsonl (or one JSON array) and its media.")
    ],
    name: Annotated[str, typer.Option(help="Name of the dataset (default: the folder's name).")] = "",
    held_out_share: HeldOutShare = 0.1,
    max_bad_share: MaxBadShare = 0.05,
    allow_shared_media: AllowSharedMedia = False,
    check: CheckOption = "full",
    rehash: Rehash = False,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Show the changes that a commit of a folder would make, without uploading anything."""
    from llava_av.workflows.dataset_status import folder_status
    from llava_av.workflows.folder_content import ChosenShares

    shares = ChosenShares(held_out_share=held_out_share, max_bad_share=max_bad_share)
    with stored_objects(output_dir, str(folder), progress=True) as store:
        store.ensure_bucket()
        found = folder_status(
            store,
            folder,
            name,
            shares,
            allow_shared_media=allow_shared_media,
            depth=check,
            again=rehash,
            cache_file=None if rehash else Workspace(folder=output_dir.absolute()).file_cache,
        )
        shown = found.to_json() if as_json else list(_status_text(found))
    if isinstance(shown, dict):
        print_json(shown)
    else:
        print("\n".join(shown))


def _status_text(found: "FolderStatus") -> Iterator[str]:
    newest = found.newest
    yield f"newest commit: {newest.name}@{newest.id}" if newest else f"{found.name} has no commit yet"
    if found.is_same:
        yield "samples and files are unchanged"
    else:
        yield from _changes_text(found.changes)
    for bad in found.left_out[:_MOST_NAMES]:
        yield printable(f"left out: {bad.file}: {bad.reason}")
    if len(found.left_out) > _MOST_NAMES:
        yield f"and {len(found.left_out) - _MOST_NAMES} more left out"
    yield from pending_text(found.pending, found.name)
    if found.refused:
        yield "a commit would be refused: too many samples cannot be used (--max-bad-share)"
    else:
        yield "a commit would be new" if found.commits else "a commit would be unchanged"


def _changes_text(changes: "ContentChanges") -> Iterator[str]:
    yield from _names_text("samples", changes.samples)
    yield from _names_text("files", changes.files)
    before, after = changes.before, changes.after
    for title, numbers in (("split", "splits"), ("kind", "kinds")):
        old: Mapping[str, int] = getattr(before, numbers)
        new: Mapping[str, int] = getattr(after, numbers)
        for key in sorted(old.keys() | new.keys()):
            yield f"{title} {printable(key)}: {old.get(key, 0)} -> {new.get(key, 0)} samples"
    yield f"files: {before.files} -> {after.files}, {before.bytes} -> {after.bytes} bytes"
    yield f"hours: {_hours_text(before)} -> {_hours_text(after)}"


def _names_text(what: str, changes: "Changes") -> Iterator[str]:
    marks = {"+": changes.added, "-": changes.removed, "~": changes.changed}
    counts = f"{len(changes.added)} added, {len(changes.removed)} removed, {len(changes.changed)} changed"
    yield f"{what}: {counts}"
    for mark, names in marks.items():
        yield from (f"  {mark} {printable(name)}" for name in names[:_MOST_NAMES])
        if len(names) > _MOST_NAMES:
            yield f"  {mark} {len(names) - _MOST_NAMES} more (--json lists all)"


def _hours_text(counts: "Counts") -> str:
    return "unknown" if counts.hours is None else f"{counts.hours:.3f}"
