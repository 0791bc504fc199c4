"""`llava-av chat`: ask a trained model about a clip."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.options import OutputDir
from llava_av.errors import UserError
from llava_av.steps.context import DEFAULT_FOLDER

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
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Ask a trained model about a clip and print its reply."""
    for file in (video, audio, image):
        if file is not None and not file.is_file():
            raise UserError(f"{file}: there is no such file")
    from llava_av.cli.session import session
    from llava_av.steps.context import Workspace

    remote = checkpoint.startswith(("s3://", "models:/"))
    here = Workspace(folder=output_dir.absolute())
    if remote and not here.state.is_dir() and not _servers_named():
        raise UserError(
            f"{output_dir} holds no state to find {checkpoint} in; name the run's folder by --output-dir"
        )
    needs_servers = session(output_dir, need_mlflow=checkpoint.startswith("models:/"))
    with needs_servers if remote else nullcontext(here) as workspace:
        print("reading the model …", file=sys.stderr, flush=True)
        from llava_av.steps.ask import Question, ask, model_folder

        asked = Question(text=question, video=video, audio=audio, image=image, use_audio=use_audio)
        folder = model_folder(checkpoint, workspace.work)
        print(ask(folder, asked, max_new_tokens=max_new_tokens))


def _servers_named() -> bool:
    return bool(os.environ.get("AWS_ENDPOINT_URL_S3"))
