"""`llava-av model`: models made of weights that exist."""

from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.options import parsed_overrides

__all__ = ["app"]

app = typer.Typer(help="Make models of weights that exist.", no_args_is_help=True)

_Target = Annotated[Path, typer.Argument(help="Folder to be made.")]
_Audio = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Hugging Face folder of an audio tower to add."),
]
_Stack = Annotated[int, typer.Option(min=1, help="Neighbouring audio features joined into one token.")]
_Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another field of the config, such as timestamps=true (JSON or YAML); may be repeated.",
    ),
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of the joints that nobody has trained.")]


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="Local Hugging Face folder of a released LLaVA model.")],
    target: _Target,
    audio: _Audio = None,
    audio_stack: _Stack = 4,
    settings: _Settings = None,
    seed: _Seed = 0,
) -> None:
    """Import LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video or LLaVA-OneVision, weight by weight."""
    _quiet()
    from llava_av.model.conversion.importing import import_model
    from llava_av.model.files.reading import file_errors

    changes = parsed_overrides(settings, "--set")
    with file_errors(f"{source}, or a part beside it,"):
        config = import_model(
            source, target, audio=audio, audio_stack=audio_stack, changes=changes, seed=seed
        )
    heard = f", hears with {config.audio_config.model_type}" if audio is not None else ""
    sight, speech = config.vision_config.model_type, config.text_config.model_type
    print(f"{target}: sees with {sight}{heard}, speaks with {speech}")


@app.command()
def compose(
    target: _Target,
    language: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Hugging Face folder of a causal language model."),
    ],
    vision: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Hugging Face folder of a vision tower.")
    ] = None,
    audio: _Audio = None,
    audio_stack: _Stack = 4,
    chunk_s: Annotated[
        float | None, typer.Option(help="Seconds of video and sound that alternate; else all video first.")
    ] = None,
    settings: _Settings = None,
    seed: _Seed = 0,
) -> None:
    """Compose a model of separate pretrained parts; only the joints between them are fresh."""
    _quiet()
    from llava_av.model.conversion.composing import compose_model
    from llava_av.model.files.reading import file_errors

    with file_errors("one of the parts"):
        compose_model(
            language,
            target,
            vision=vision,
            audio=audio,
            audio_stack=audio_stack,
            chunk_s=chunk_s,
            changes=parsed_overrides(settings, "--set"),
            seed=seed,
        )
    parts = [str(part) for part in (language, vision, audio) if part is not None]
    print(f"{target}: made of {', '.join(parts)}")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A model's folder.")],
    name: Annotated[str, typer.Argument(help="Name under which S3 keeps it.")],
) -> None:
    """Put a model into S3, for recipes that start from it (`model.base`); prints its address."""
    from llava_av.checkpoints import push_base
    from llava_av.storage import ObjectStore

    print(push_base(ObjectStore.from_env(), folder, name).uri)


def _quiet() -> None:
    # What was made is what the user asked for, not how weights are read.
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
