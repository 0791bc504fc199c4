"""Command line `llava-av`: each command parses its options, calls a workflow and prints the result.

`app.py` assembles the commands, sets up logging and turns errors into one line. `init.py`, `dryrun.py`,
`submit.py`, `chat.py` and `doctor.py` hold one command each, `steps.py` the steps of the pipeline as
commands, and `registry.py` the commands about registered models. Groups of commands are `services.py`,
`data.py`, `model.py`, `recipe.py`, `evaluation.py`, `pipeline.py`, `experiment.py` and `backup.py`. The
commands of `data` about versions are in `data_history.py`, `data_copies.py`, `data_statistics.py`,
`data_view.py`, `data_derive.py` and `data_checks.py`, with their shared arguments in `data_options.py`;
`data_commit.py` runs a commit in this process or as a job. All commands share `options.py` (common
options), `session.py` (servers and signals around a command), `display.py` (progress) and
`dryrun_summary.py` (the result of a dry run, which `pipeline_run.py` executes). `doctor_checks.py` holds
the checks of `doctor`, and `version.py` the version.
"""

from llava_av.cli.app import main

__all__ = ["main"]
