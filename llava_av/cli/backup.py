"""`llava-av backup`: snapshots of the bucket and of MLflow's database, and the way back."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    help="Snapshots of the bucket and of MLflow's database. AWS_* and LLAVA_AV_BUCKET name the bucket, the"
    " same with BACKUP_ before them the one for snapshots.",
    no_args_is_help=True,
)
_Id = Annotated[str, typer.Argument(help="Id of a snapshot; the newest without one.")]


@app.command()
def create(
    database: Annotated[
        Path | None, typer.Option(help="Dump of MLflow's database, made before this.", exists=True)
    ] = None,
    keep: Annotated[int, typer.Option(help="Snapshots to keep, the newest; 0: all.", min=0)] = 0,
) -> None:
    """Make a snapshot; what an earlier one has is not sent again."""
    from llava_av.backup import backup_store, make_snapshot
    from llava_av.storage import ObjectStore

    store, backups = ObjectStore.from_env(), backup_store()
    backups.ensure_bucket()
    with tempfile.TemporaryDirectory() as work:
        made = make_snapshot(store, backups, Path(work), database=database, keep=keep)
    print(f"{made.id} ({_what(made.objects, made.bytes)})")


@app.command("list")
def show() -> None:
    """List the snapshots, the oldest first."""
    from llava_av.backup import backup_store, list_snapshots

    for one in list_snapshots(backup_store()):
        database = "with" if one.database else "without"
        print(f"{one.id} {one.bucket} ({_what(one.objects, one.bytes)}, {database} database)")


@app.command()
def verify(snapshot: _Id = "") -> None:
    """Read a snapshot as a whole, and compare every hash."""
    from llava_av.backup import backup_store, find_snapshot, verify_snapshot

    backups = backup_store()
    found = find_snapshot(backups, snapshot)
    with tempfile.TemporaryDirectory() as work:
        count = verify_snapshot(backups, found, Path(work))
    print(f"{found.id} is whole ({count} different contents)")


@app.command()
def restore(
    snapshot: _Id = "",
    database: Annotated[
        Path | None, typer.Option(help="File for the dump of MLflow's database, to be restored after this.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace objects that have other content.")] = False,
) -> None:
    """Write a snapshot back into the bucket; what it lacks stays."""
    from llava_av.backup import backup_store, find_snapshot, restore_snapshot
    from llava_av.storage import ObjectStore

    store, backups = ObjectStore.from_env(), backup_store()
    found = find_snapshot(backups, snapshot)
    store.ensure_bucket()
    with tempfile.TemporaryDirectory() as work:
        count = restore_snapshot(store, backups, found, Path(work), database=database, overwrite=overwrite)
    print(f"{found.id} is restored: {count} of {found.objects} objects written, the others were there")


def _what(objects: int, size: int) -> str:
    return f"{objects} objects, {size / 2**20:.1f} MiB"
