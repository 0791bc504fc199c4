"""`llava-av chat`: ask a trained model about a clip."""

from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.options import OutputDir

__all__ = ["chat"]


def chat(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder, s3:// address of a checkpoint, or models:/NAME@ALIAS.")
    ],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    video: Annotated[Path | None, typer.Option(help="Clip with pictures, and sound if it has some.")] = None,
    audio: Annotated[Path | None, typer.Option(help="Sound file.")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture.")] = None,
    use_audio: Annotated[bool, typer.Option(help="Listen to the video's sound.")] = True,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens after which the reply is cut.")] = 64,
    output_dir: OutputDir = Path("dryrun-outputs"),
) -> None:
    """Ask a trained model about a clip and print its reply."""
    raise NotImplementedError
