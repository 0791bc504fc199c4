"""Arguments and the store that the commands of `llava-av data` share."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llava_av.plurals import count_of

if TYPE_CHECKING:
    from llava_av.storage import ObjectStore

__all__ = [
    "AllowSharedMedia",
    "AuthorOption",
    "CheckOption",
    "DatasetArgument",
    "HeldOutShare",
    "MaxBadShare",
    "MessageOption",
    "PatternOption",
    "Rehash",
    "SampleOption",
    "SplitOption",
    "pending_text",
    "stored_data",
]

DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="NAME (its newest commit), NAME@COMMIT or NAME@TAG.")
]
HeldOutShare = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the samples to hold out for evaluation.")
]
MaxBadShare = Annotated[
    float, typer.Option(min=0, max=1, help="Maximum share of unusable samples to accept.")
]
AllowSharedMedia = Annotated[
    bool,
    typer.Option("--allow-shared-media", help="Allow held-out samples to share media with training samples."),
]
Rehash = Annotated[
    bool,
    typer.Option("--rehash", help="Read and check files again whose size, times and inode are known."),
]
MessageOption = Annotated[
    str, typer.Option("--message", "-m", help="Message for the history of the dataset.")
]
AuthorOption = Annotated[
    str, typer.Option("--author", help="Author for the history (default: git's user, else this user).")
]
CheckOption = Annotated[
    Literal["full", "sample", "headers"],
    typer.Option(
        "--check",
        help="Media files to decode: full (all), sample (1 of 16), headers (none). The others are pending.",
    ),
]
SplitOption = Annotated[str, typer.Option(help="Only samples of this split.")]
PatternOption = Annotated[
    str, typer.Option(metavar="GLOB", help="Only samples with a media path that matches, such as 'night/*'.")
]
SampleOption = Annotated[
    list[str] | None, typer.Option(metavar="ID", help="Only this sample; may be repeated.")
]


@contextlib.contextmanager
def stored_data(output_dir: Path, wanted: str, *, progress: bool = False) -> Iterator["ObjectStore"]:
    """Start or join the S3 server of an output folder that has state, and yield the store.

    Args:
        output_dir: Folder of state, logs and results.
        wanted: The object that the command looks for, for the message if the folder has no state.
        progress: True to show progress on standard error.
    """
    from llava_av.cli.display import console_progress
    from llava_av.cli.session import stored_objects

    shown = console_progress if progress else contextlib.nullcontext
    with stored_objects(output_dir, wanted) as store, shown():
        yield store


def pending_text(pending: int, name: str) -> Iterator[str]:
    """Yield the line about the files of a dataset that were not decoded, if there are any."""
    if pending:
        files = count_of(pending, "media file")
        yield f"pending: {files} not decoded yet (`llava-av data verify {name} --decode` decodes them)"
