"""`llava-av rollback`, `lineage`, `model-card` and `reproduce`: commands about registered models."""

from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir, VersionArgument
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

__all__ = ["lineage", "model_card", "reproduce", "rollback"]


def rollback(
    model: Annotated[str, typer.Argument(help="Name of the registered model.")],
    reason: Annotated[str, typer.Option(help="Reason, for the record.")],
    to: Annotated[
        str | None,
        typer.Option(help="Version to restore (default: the previous champion)."),
    ] = None,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Move the alias `champion` back to an earlier champion, and record the reason."""
    from llava_av.cli.session import require_state, session
    from llava_av.workflows.promote import roll_back_step

    require_state(output_dir, model)
    with session(output_dir):
        move = roll_back_step(model, to=to, reason=reason)
    if as_json:
        print_json(move.model_dump(mode="json"))
    else:
        print(move.line())


def lineage(
    version: VersionArgument,
    output_dir: OutputDir = DEFAULT_FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="Print the complete lineage as JSON.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Verify every file of the checkpoint.")] = False,
    draw: Annotated[Path | None, typer.Option(help="File to draw the lineage to: .svg or .html.")] = None,
) -> None:
    """Show the origin and use of a model version; exit with 1 if a part of it is damaged."""
    from rich.markup import escape
    from rich.tree import Tree

    from llava_av.cli.display import result_console
    from llava_av.cli.session import require_state, session
    from llava_av.report.lineage_tree import history_boxes
    from llava_av.report.tree_diagram import write_diagram
    from llava_av.storage import ObjectStore
    from llava_av.workflows.version_history import version_history, version_uri

    require_state(output_dir, version)
    with session(output_dir):
        history = version_history(ObjectStore.from_env(), version_uri(version), contents=verify)
    boxes = history_boxes(history)
    if as_json:
        print_json(history.to_json())
    else:
        colours = {"good": "green", "bad": "red", "open": "yellow", "plain": "none"}
        branches: list[Tree] = []
        for box in boxes:
            lines = [f"[bold]{escape(box.title)}[/]", *(escape(line) for line in box.lines[:-1])]
            lines += [f"[{colours[box.state]}]{escape(line)}[/]" for line in box.lines[-1:]]
            del branches[box.depth :]
            branches.append(branches[-1].add("\n".join(lines)) if branches else Tree("\n".join(lines)))
        result_console().print(branches[0])
    if draw is not None:
        write_diagram(draw, f"Lineage of {version_uri(version)}", boxes)
    raise typer.Exit(0 if history.verified else 1)


def model_card(
    version: VersionArgument, output_dir: OutputDir = DEFAULT_FOLDER, as_json: AsJson = False
) -> None:
    """Print the model card of a version, which is Markdown."""
    from llava_av.cli.session import require_state, session
    from llava_av.storage import ObjectStore
    from llava_av.workflows.model_card import read_model_card
    from llava_av.workflows.version_history import version_uri

    require_state(output_dir, version)
    with session(output_dir):
        card = read_model_card(ObjectStore.from_env(), version_uri(version))
    if as_json:
        print_json({"version": version, "markdown": card})
    else:
        print(card, end="")


def reproduce(
    version: VersionArgument,
    output_dir: OutputDir = DEFAULT_FOLDER,
    repository: Annotated[
        str | None,
        typer.Option(help="Git repository with the commit (default: this checkout)."),
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(help="Working folder, kept afterwards (default: a temporary folder)."),
    ] = None,
    any_environment: Annotated[
        bool,
        typer.Option("--any-environment", help="Accept packages that differ from the lock file."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model version again from its lineage and compare; exit with 1 if the results differ."""
    from llava_av.cli.session import require_state, session
    from llava_av.workflows.reproduce import reproduce_step
    from llava_av.workflows.version_history import version_uri

    require_state(output_dir, version)
    with session(output_dir) as workspace:
        made = reproduce_step(
            workspace,
            version_uri(version),
            repository=repository,
            scratch=scratch,
            any_environment=any_environment,
        )
    if as_json:
        print_json(made.to_json())
    else:
        print(*made.lines(), sep="\n")
    raise typer.Exit(0 if made.identical or made.within_intervals else 1)
