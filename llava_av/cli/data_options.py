"""Arguments and options that the commands of `llava-av data` share."""

from collections.abc import Iterator
from typing import Annotated, Literal

import typer

from llava_av.plurals import count_of

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


def pending_text(pending: int, name: str) -> Iterator[str]:
    """Yield the line about the files of a dataset that were not decoded, if there are any."""
    if pending:
        files = count_of(pending, "media file")
        yield f"pending: {files} not decoded yet (`llava-av data verify {name} --decode` decodes them)"
