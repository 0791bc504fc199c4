"""`llava-av model`: create models from pretrained weights, list registered ones, and export trained ones."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from llava_av.cli import model_versions
from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir, parsed_overrides
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

__all__ = ["app"]

app = typer.Typer(help="Create, list, download and export models.", no_args_is_help=True)

_Target = Annotated[Path, typer.Argument(help="Folder to create.")]
_Audio = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Hugging Face folder of an audio tower to add."),
]
_Stack = Annotated[int, typer.Option(min=1, help="Consecutive audio features per token.")]
_Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set a field of the configuration, such as timestamps=true; may be repeated.",
    ),
]
_Dtype = Literal["float32", "bfloat16", "float16"]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of the untrained connectors.")]


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="Local Hugging Face folder of a released LLaVA model.")],
    target: _Target,
    audio: _Audio = None,
    audio_stack: _Stack = 4,
    settings: _Settings = None,
    seed: _Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Import a LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video or LLaVA-OneVision model."""
    _quiet()
    from llava_av.model.conversion.importing import import_model
    from llava_av.model.files.reading import file_errors

    changes = parsed_overrides(settings, "--set")
    with file_errors(f"{source} or {audio}" if audio is not None else str(source)):
        config = import_model(
            source, target, audio=audio, audio_stack=audio_stack, changes=changes, seed=seed
        )
    parts = {"vision": config.vision_config.model_type}
    if audio is not None:
        parts["audio"] = config.audio_config.model_type
    parts["language"] = config.text_config.model_type
    if as_json:
        print_json({"folder": str(target), **parts})
    else:
        print(f"{target}: {', '.join(f'{part} {kind}' for part, kind in parts.items())}")


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
        float | None,
        typer.Option(help="Seconds of video and audio per alternating chunk (default: all video first)."),
    ] = None,
    settings: _Settings = None,
    seed: _Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compose a model from separate pretrained parts; only its connectors are untrained."""
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
    given = {"language": language, "vision": vision, "audio": audio}
    parts = {name: str(part) for name, part in given.items() if part is not None}
    if as_json:
        print_json({"folder": str(target), **parts})
    else:
        print(f"{target}: composed of {', '.join(parts.values())}")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a model.")],
    name: Annotated[str, typer.Argument(help="Name of the model in S3.")],
    as_json: AsJson = False,
) -> None:
    """Upload a model to S3 for recipes that start from it (`model.base`), and print its URI."""
    from llava_av.checkpoints import push_base
    from llava_av.storage import ObjectStore

    pushed = push_base(ObjectStore.from_env(), folder, name)
    if as_json:
        print_json({"uri": pushed.uri, "digest": pushed.digest})
    else:
        print(pushed.uri)


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            help="Model: a run ID, a folder, s3://… of a checkpoint, or models:/NAME/VERSION or @ALIAS."
        ),
    ],
    target: _Target,
    merge_adapter: Annotated[
        bool, typer.Option("--merge-adapter", help="Merge an adapter into its base model.")
    ] = False,
    released: Annotated[
        bool,
        typer.Option(
            "--released",
            help="Write the format of transformers' own LLaVA classes, which needs no code of llava-av; "
            "for models without audio.",
        ),
    ] = False,
    dtype: Annotated[
        _Dtype | None, typer.Option(help="Type of the weights (default: that of the training).")
    ] = None,
    license_name: Annotated[
        str | None,
        typer.Option("--license", metavar="NAME", help="Licence of the weights for the model card."),
    ] = None,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Write a trained model as a Hugging Face folder, with its model card and lineage.

    transformers loads the folder of a whole model with `trust_remote_code=True` where llava-av is installed.
    """
    _quiet()
    from llava_av.checkpoints import base_in_store
    from llava_av.cli.session import require_state, session
    from llava_av.workflows.export_model import ExportOptions, export_model, is_remote
    from llava_av.workflows.runtime.workspace import Workspace

    # The base model of an adapter in a folder is read only to merge both.
    base = base_in_store(Path(model)) if merge_adapter and not is_remote(model) else None
    stored = model if is_remote(model) else base
    if stored:
        require_state(output_dir, stored)
    servers = session(output_dir, need_mlflow=model.startswith("models:/"))
    here = Workspace(folder=output_dir.absolute())
    with servers if stored else nullcontext(here) as workspace:
        options = ExportOptions(
            merge_adapter=merge_adapter, released=released, dtype=dtype, license=license_name
        )
        kind = export_model(workspace, model, target, options)
    if as_json:
        print_json({"folder": str(target), "kind": kind})
    else:
        print(f"{target}: {kind}")


app.command("list")(model_versions.list_versions)
app.command()(model_versions.show)
app.command()(model_versions.pull)


def _quiet() -> None:
    # Loading messages of transformers are not part of the result.
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # These commands compute on the CPU. DeepSpeed, which peft imports, warns if it has to find that out.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
