"""Command line `llava-av`: each command parses its options, calls a workflow and prints the result.

`app.py` assembles the commands, sets up logging and turns errors into one line. `init.py`, `run.py`,
`dryrun.py`, `submit.py`, `chat.py`, `serve.py` and `doctor.py` hold one command each, `steps.py` the steps of
the pipeline as commands, and `registry.py` the commands about registered models. Groups of commands are
`data.py`, `recipe.py`, `experiment.py`, `runs.py`, `model.py`, `evaluation.py`, `services.py`, `pipeline.py`
and `backup.py`. The commands of `data` about versions are in `data_list.py`, `data_history.py`,
`data_copies.py`, `data_export.py`, `data_statistics.py`, `data_view.py`, `data_derive.py` and
`data_checks.py`, with their shared arguments in `data_options.py`; `data_commit.py` runs a commit in this
process or as a job. `model_versions.py` has the commands of `model` about registered versions,
`experiment_read.py` those of `experiment` that change no record, and `experiment_compare.py` another one. All
commands share `options.py` (common options), `session.py` (servers and signals around a command) and
`display.py` (results and progress). `pipeline_run.py` executes `run` and `dryrun`, and `dryrun_summary.py`
prints their result. `doctor_checks.py` holds the checks of `doctor`, and `version.py` the version.
"""

from llava_av.cli.app import main, run_and_exit

__all__ = ["main", "run_and_exit"]
