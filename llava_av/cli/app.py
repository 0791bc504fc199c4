"""Application `llava-av`: all commands, global options and error handling."""

import contextlib
import io
import sys
from typing import NoReturn

import typer

from llava_av.cli import (
    backup,
    chat,
    data,
    doctor,
    dryrun,
    evaluation,
    experiment,
    init,
    model,
    pipeline,
    recipe,
    registry,
    run,
    runs,
    serve,
    services,
    steps,
    submit,
)
from llava_av.cli.version import version_line
from llava_av.errors import explain
from llava_av.logs import FORMAT_VARIABLE, FORMATS, LEVEL_VARIABLE, configure_logging, log_error
from llava_av.processes import call_with_frame_memory, exit_without_teardown, set_variables
from llava_av.redaction import redact_output
from llava_av.workflows.runtime.workspace import quiet_libraries

__all__ = ["app", "main", "run_and_exit"]

_START, _INPUTS, _STEPS, _MODELS, _PLATFORM = (
    "Start",
    "Inputs",
    "Steps of a run",
    "Runs and models",
    "Platform",
)

app = typer.Typer(
    name="llava-av",
    help="Train, evaluate and ship LLaVA-style models that watch video and listen to audio.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel=_START)(init.init)
app.command(rich_help_panel=_START)(dryrun.dryrun)
app.command(rich_help_panel=_START)(run.run)
app.command(rich_help_panel=_START)(doctor.doctor)
app.add_typer(data.app, name="data", rich_help_panel=_INPUTS)
app.add_typer(recipe.app, name="recipe", rich_help_panel=_INPUTS)
app.add_typer(experiment.app, name="experiment", rich_help_panel=_INPUTS)
app.command(rich_help_panel=_STEPS)(steps.open_run)
app.command(rich_help_panel=_STEPS)(steps.train)
app.command(rich_help_panel=_STEPS)(submit.submit)
app.command(rich_help_panel=_STEPS)(steps.register)
app.command(rich_help_panel=_STEPS)(steps.evaluate)
app.command(rich_help_panel=_STEPS)(steps.promote)
app.command(rich_help_panel=_STEPS)(steps.report)
app.command(rich_help_panel=_STEPS)(steps.index)
app.add_typer(runs.app, name="runs", rich_help_panel=_MODELS)
app.add_typer(model.app, name="model", rich_help_panel=_MODELS)
app.add_typer(evaluation.app, name="evaluation", rich_help_panel=_MODELS)
app.command(rich_help_panel=_MODELS)(chat.chat)
app.command(rich_help_panel=_MODELS)(serve.serve)
app.command(rich_help_panel=_MODELS)(registry.lineage)
app.command(rich_help_panel=_MODELS)(registry.model_card)
app.command(rich_help_panel=_MODELS)(registry.rollback)
app.command(rich_help_panel=_MODELS)(registry.reproduce)
app.add_typer(services.app, name="services", rich_help_panel=_PLATFORM)
app.add_typer(pipeline.app, name="pipeline", rich_help_panel=_PLATFORM)
app.add_typer(backup.app, name="backup", rich_help_panel=_PLATFORM)


def main() -> None:
    """Run the command line.

    Exit codes: 1 for an error, explained in one line, 2 for wrong usage, 3 if `promote` did not apply the
    gate, 130 after Ctrl-C, 143 after SIGTERM.
    """
    # a file name may have bytes that are not UTF-8; in JSON, too, their escapes are valid
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    redact_output()
    try:
        configure_logging()
        # Before the callback of the application: typer's own models look for plugins of pydantic.
        quiet_libraries()
        app()
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        log_error(line, error)
        sys.exit(1)


def run_and_exit() -> NoReturn:
    """Run the command line and end the process without freeing each object (`exit_without_teardown`)."""
    code: int | str | None = None
    try:
        call_with_frame_memory(main)
    except SystemExit as ended:
        code = ended.code
    if not isinstance(code, str):
        # The reader of a pipe may have ended.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            exit_without_teardown(code or 0)
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version_line())
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print version and git commit."
    ),
    verbose: bool = typer.Option(
        False, "--verbose", help="Also log debug messages and the tracebacks of errors."
    ),
    quiet: bool = typer.Option(False, "--quiet", help="Log warnings and errors only."),
    log_format: str = typer.Option(
        "", "--log-format", help=f"Format of log lines on standard error: {', '.join(FORMATS)}."
    ),
) -> None:
    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet are mutually exclusive; use one of them")
    if log_format and log_format not in FORMATS:
        raise typer.BadParameter(f"--log-format {log_format!r} must be one of {', '.join(FORMATS)}")
    chosen = {LEVEL_VARIABLE: "debug" if verbose else "warning" if quiet else "", FORMAT_VARIABLE: log_format}
    # Child processes read the same variables.
    context.with_resource(set_variables({name: value for name, value in chosen.items() if value}))
    configure_logging()
    quiet_libraries()
