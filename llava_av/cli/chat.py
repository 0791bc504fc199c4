"""`llava-av chat`: ask a trained model about a clip."""

import logging
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, DeviceOption, DtypeOption, OutputDir
from llava_av.errors import UserError, explain, printable
from llava_av.logs import log_error
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.inference.chat import Conversation

__all__ = ["chat"]

_LOG = logging.getLogger(__name__)


def chat(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint: a folder, s3://…, models:/NAME/VERSION or models:/NAME@ALIAS.")
    ],
    question: Annotated[
        str | None, typer.Argument(help="Question; without it, questions are read from standard input.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="Video file; its audio is used too.")] = None,
    audio: Annotated[Path | None, typer.Option(help="Audio file.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Image file; may be repeated.")] = None,
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Ignore the video's audio.")] = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="Ignore the video's frames.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of the reply in tokens.")] = 64,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Ask a trained model about a clip and print its reply as it is generated.

    Without a question, hold a conversation: each line is a question, and the model sees all earlier turns. An
    empty line or the end of the input ends the conversation.
    """
    _require_files(video, audio, *(image or ()))
    from llava_av.checkpoints import base_in_store, fetch_adapter_base
    from llava_av.cli.session import require_state, session
    from llava_av.workflows.runtime.workspace import Workspace

    remote = checkpoint.startswith(("s3://", "models:/"))
    stored = checkpoint if remote else base_in_store(Path(checkpoint))
    here = Workspace(folder=output_dir.absolute())
    if stored:
        require_state(output_dir, stored)
    needs_servers = session(output_dir, need_mlflow=checkpoint.startswith("models:/"))
    with needs_servers if stored else nullcontext(here) as workspace:
        _LOG.info("loading the model …")
        from llava_av.inference.chat import Conversation
        from llava_av.inference.chat_media import ChatMedia
        from llava_av.inference.model_source import local_model_folder

        media = ChatMedia(
            video=video,
            audio=audio,
            images=tuple(image or ()),
            use_video=not no_video,
            use_audio=not no_audio,
        )
        if question is not None:
            media.prompt(question)  # fails before the model is loaded
        folder = local_model_folder(checkpoint, workspace.work)
        base = fetch_adapter_base(folder, workspace.work)
        conversation = Conversation(
            folder, media, max_new_tokens=max_new_tokens, device=device, dtype=dtype, base=base
        )
        questions = _questions() if question is None else iter([question])
        turns = list(_turns(conversation, questions, shown=not as_json))
        if as_json:
            print_json(turns)


def _require_files(*files: Path | None) -> None:
    for file in files:
        if file is not None and not file.is_file():
            raise UserError(f"{file}: no such file; check the path")


def _questions() -> Iterator[str]:
    """Yield lines of standard input until an empty one, with a prompt on a terminal."""
    prompt = "> " if sys.stdin.isatty() and sys.stdout.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def _turns(
    conversation: "Conversation", questions: Iterator[str], *, shown: bool
) -> Iterator[dict[str, str]]:
    """Yield each question and its reply, and print the reply as it is generated if it is shown."""

    def say(piece: str) -> None:
        print(printable(piece, keep="\n\t"), end="", flush=True)

    for question in questions:
        try:
            reply = conversation.ask(question, say if shown else None)
        except UserError as error:
            if not sys.stdin.isatty():
                raise
            # An invalid question must not end a conversation, since loading the model takes long.
            log_error(str(explain(error)), error)
            continue
        if shown:
            print(flush=True)
        yield {"question": question, "reply": reply}
