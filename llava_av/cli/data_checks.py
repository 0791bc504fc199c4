"""`llava-av data verify` and `gc`: damaged content of commits, and stored content that no commit needs."""

import datetime
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir
from llava_av.cli.session import stored_objects
from llava_av.errors import UserError, printable
from llava_av.plurals import count_of, listed
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.datasets.verification import DamagedBlob, Verification
    from llava_av.workflows.collect_garbage import Garbage

__all__ = ["gc", "verify"]

_MOST_NAMES = 5


def verify(
    dataset: Annotated[
        str,
        typer.Argument(metavar="[DATASET]", help="NAME (its newest commit), NAME@COMMIT or NAME@TAG."),
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Verify all commits of all datasets.")] = False,
    repair_from: Annotated[
        Path | None,
        typer.Option(
            "--repair", metavar="FOLDER", help="Replace damaged content by intact files of this folder."
        ),
    ] = None,
    decode: Annotated[
        bool,
        typer.Option("--decode", help="Only decode the media files that were committed without decoding."),
    ] = False,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Read all content of a commit and compare its digests; exit with 1 if any is damaged or missing."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.repairing import repair
    from llava_av.datasets.verification import all_commits, verify_commits
    from llava_av.processes import progress_reporter

    progress = progress_reporter("data", "blobs verified")
    if every == bool(dataset):
        given = f"dataset {dataset} and --all" if every else "neither a dataset nor --all"
        raise UserError(f"data verify got {given}: give either a dataset or --all")
    if decode:
        if repair_from is not None:
            raise UserError(
                "data verify got --decode and --repair, which are mutually exclusive: use one of them"
            )
        raise typer.Exit(1 if _decode(dataset, output_dir, as_json=as_json) else 0)
    with stored_objects(output_dir, dataset or "datasets", progress=True) as store:
        commits = list(all_commits(store)) if every else [find_commit(store, dataset)]
        found = verify_commits(store, commits, progress)
        repaired: list[str] = []
        while repair_from is not None:
            new = repair(store, commits, found.damaged, repair_from)
            repaired += new
            # Files are verified when the list that names them can be read.
            if not any(blob.kind == "files" and blob.sha256 in new for blob in found.damaged):
                break
            found = verify_commits(store, commits, progress)
    left = replace(found, damaged=tuple(blob for blob in found.damaged if blob.sha256 not in repaired))
    if as_json:
        print_json({**asdict(left), "repaired": repaired})
    else:
        print("\n".join(_verification_text(left, len(repaired))))
    raise typer.Exit(1 if left.damaged else 0)


def _decode(dataset: str, output_dir: Path, *, as_json: bool) -> bool:
    """Decode the pending files of a commit, or of all commits; return whether any cannot be used."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.pending_checks import decode_pending
    from llava_av.datasets.verification import all_commits
    from llava_av.processes import progress_reporter

    with stored_objects(output_dir, dataset or "datasets", progress=True) as store:
        commits = [find_commit(store, dataset)] if dataset else list(all_commits(store))
        found = decode_pending(store, commits, progress_reporter("data", "files decoded"))
    if as_json:
        print_json(asdict(found))
    else:
        for blob in found.damaged:
            print("\n".join(_damage_text(blob, f"unusable ({blob.state})")))
        files = f"{count_of(found.decoded, 'pending file')} decoded, {len(found.damaged)} unusable"
        print(f"{count_of(found.commits, 'commit')}: {files}")
        if found.damaged:
            print("commit the folder again: the unusable files are left out")
    return bool(found.damaged)


def _damage_text(blob: "DamagedBlob", state: str) -> Iterator[str]:
    yield printable(f"{state}: {listed(blob.paths, _MOST_NAMES)} (blob {blob.sha256})")
    if blob.samples:
        yield printable(f"  needed by {listed(blob.samples, _MOST_NAMES)}")


def _verification_text(found: "Verification", repaired: int) -> Iterator[str]:
    for blob in found.damaged:
        state = blob.state if blob.state in ("missing", "damaged") else f"unreadable ({blob.state})"
        yield from _damage_text(blob, state)
    checked = f"{count_of(found.commits, 'commit')}, {count_of(found.blobs, 'blob')}, {found.bytes} bytes"
    yield f"{checked}: {repaired} repaired, {len(found.damaged)} damaged or missing"


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete the listed objects.")] = False,
    keep_commits: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Also delete commits that no tag, run or model needs, except the N newest of each dataset.",
        ),
    ] = None,
    older_than_days: Annotated[
        float, typer.Option(min=0, help="Age in days from which unused objects are deleted.")
    ] = 7,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """List the blobs that no commit needs, and delete them with --delete."""
    from llava_av.workflows.collect_garbage import delete_garbage, find_garbage

    age = datetime.timedelta(days=older_than_days)
    work = delete_garbage if delete else find_garbage
    with stored_objects(output_dir, "datasets") as store:
        found = work(store, keep_commits=keep_commits, safety_age=age)
    if as_json:
        print_json({"deleted": delete, **found.to_json()})
    else:
        print("\n".join(_garbage_text(found, deleted=delete)))


def _garbage_text(found: "Garbage", *, deleted: bool) -> Iterator[str]:
    yield from (f"commit {commit}" for commit in found.commits)
    yield from (f"{blob.key}  {blob.size} bytes" for blob in found.blobs)
    removed = f"{count_of(len(found.commits), 'commit')}, {count_of(len(found.blobs), 'blob')}"
    kept = f"{count_of(found.kept_commits, 'commit')}, {count_of(found.kept_blobs, 'blob')}"
    done = "deleted" if deleted else "unused"
    yield f"{done}: {removed}, {found.bytes} bytes; kept: {kept}"
    if not deleted and (found.commits or found.blobs):
        yield "nothing was deleted: add --delete to delete the listed objects"
