"""`llava-av backup`: create and restore snapshots of the bucket and of MLflow's database."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson
from llava_av.plurals import count_of

__all__ = ["app"]

app = typer.Typer(
    help="Create and restore snapshots of the bucket and of MLflow's database. AWS_* and LLAVA_AV_BUCKET name"
    " the bucket; the same variables with the prefix BACKUP_ name the bucket for snapshots.",
    no_args_is_help=True,
)
_Id = Annotated[str, typer.Argument(help="ID of the snapshot (default: the newest).")]


@app.command()
def create(
    database: Annotated[
        Path | None, typer.Option(help="Dump of MLflow's database, made before this command.", exists=True)
    ] = None,
    keep: Annotated[int, typer.Option(help="Number of newest snapshots to keep; 0 keeps all.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Create a snapshot; upload only content that no earlier snapshot contains."""
    from llava_av.backup import backup_store, make_snapshot
    from llava_av.storage import ObjectStore

    store, backups = ObjectStore.from_env(), backup_store()
    backups.ensure_bucket()
    with tempfile.TemporaryDirectory() as work:
        made = make_snapshot(store, backups, Path(work), database=database, keep=keep)
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        print(f"{made.id} ({_size(made.objects, made.bytes)})")


@app.command("list")
def show(as_json: AsJson = False) -> None:
    """List the snapshots, oldest first."""
    from llava_av.backup import backup_store, list_snapshots

    snapshots = list_snapshots(backup_store())
    if as_json:
        print_json([one.model_dump(mode="json") for one in snapshots])
        return
    for one in snapshots:
        database = "with" if one.database else "without"
        print(f"{one.id} {one.bucket} ({_size(one.objects, one.bytes)}, {database} database)")


@app.command()
def verify(snapshot: _Id = "", as_json: AsJson = False) -> None:
    """Read a whole snapshot and verify every checksum."""
    from llava_av.backup import backup_store, find_snapshot, verify_snapshot

    backups = backup_store()
    found = find_snapshot(backups, snapshot)
    with tempfile.TemporaryDirectory() as work:
        count = verify_snapshot(backups, found, Path(work))
    if as_json:
        print_json(found.model_dump(mode="json") | {"verified": count})
    else:
        print(f"{found.id} is complete ({count} distinct contents)")


@app.command()
def restore(
    snapshot: _Id = "",
    database: Annotated[
        Path | None,
        typer.Option(help="File to write the dump of MLflow's database to, which you restore afterwards."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing objects whose content differs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Restore a snapshot into the bucket; keep objects that the snapshot does not contain."""
    from llava_av.backup import backup_store, find_snapshot, restore_snapshot
    from llava_av.storage import ObjectStore

    store, backups = ObjectStore.from_env(), backup_store()
    found = find_snapshot(backups, snapshot)
    store.ensure_bucket()
    with tempfile.TemporaryDirectory() as work:
        count = restore_snapshot(store, backups, found, Path(work), database=database, overwrite=overwrite)
    if as_json:
        print_json(found.model_dump(mode="json") | {"written": count})
    else:
        print(f"{found.id} is restored: {count} of {found.objects} objects written, the others existed")


def _size(objects: int, size: int) -> str:
    return f"{count_of(objects, 'object')}, {size / 2**20:.1f} MiB"
