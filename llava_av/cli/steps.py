"""Pipeline steps as separate commands."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.display import print_json
from llava_av.cli.options import (
    COMMITTED_DATASETS,
    LOCAL_PROFILE,
    AllowIncompleteRecord,
    AsJson,
    DatasetNameOption,
    EngineName,
    ExperimentName,
    LauncherName,
    OutputDir,
    Overrides,
    ProfileChanges,
    ProfileName,
    ProfileSteps,
    RecipeArgument,
    RunIdArgument,
    SeedOption,
    chosen_recipe,
    chosen_target,
)
from llava_av.errors import UserError, printable
from llava_av.plurals import count_of
from llava_av.processes import PROFILE_FOLDER_VARIABLE, PROFILE_STEPS_VARIABLE, set_variables
from llava_av.vocabulary import GateVerdict
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

__all__ = ["evaluate", "index", "open_run", "promote", "register", "report", "train"]

_GATE_EXIT_CODES = {GateVerdict.PASSED: 0, GateVerdict.FAILED: 1, GateVerdict.NOT_RUN: 3}
_ON_SIGNAL = "training saves a checkpoint after this step and ends; a second signal ends it immediately"


def open_run(
    recipe: Annotated[str, typer.Argument(help="Name, YAML file or JSON text of a recipe.")],
    dataset: Annotated[
        str, typer.Option(help=f"Dataset: demo, a folder to commit, or {COMMITTED_DATASETS}.")
    ] = "demo",
    dataset_name: DatasetNameOption = "",
    output_dir: OutputDir = DEFAULT_FOLDER,
    seed: SeedOption = None,
    engine: EngineName = None,
    overrides: Overrides = None,
    experiment: ExperimentName = "",
    run_file: Annotated[Path | None, typer.Option(help="File to write the run ID to.")] = None,
    allow_incomplete_record: AllowIncompleteRecord = False,
    as_json: AsJson = False,
) -> None:
    """Commit the dataset, open the run that trains a recipe on it, and print the run ID.

    Pods of `llava-av submit` start with this command, so the experiment record must be complete.
    """
    chosen = chosen_recipe(recipe, seed=seed, engine=engine, overrides=overrides)
    from llava_av.cli.display import console_progress
    from llava_av.cli.session import session
    from llava_av.experiments.completeness import require_record
    from llava_av.workflows.open_run import default_record, open_run_step

    experiment = default_record(experiment, dataset)
    require_record(experiment, "nothing" if allow_incomplete_record else "everything")
    with session(output_dir, need_mlflow=False, resumes=True) as workspace, console_progress():
        opened = open_run_step(
            workspace,
            recipe=chosen.stated_json(),
            dataset=dataset,
            dataset_name=dataset_name,
            experiment=experiment,
            allow_incomplete_record=allow_incomplete_record,
        )
    if as_json:
        print_json(asdict(opened))
    else:
        print(f"run {opened.run}", flush=True)
    if run_file is not None:
        run_file.write_text(f"{opened.run}\n", encoding="utf-8")


def train(
    recipe: RecipeArgument,
    dataset: Annotated[str, typer.Option(help=f"Dataset: {COMMITTED_DATASETS}.")],
    output_dir: OutputDir = DEFAULT_FOLDER,
    seed: SeedOption = None,
    engine: EngineName = None,
    overrides: Overrides = None,
    experiment: ExperimentName = "",
    launcher: LauncherName = "local",
    profile: ProfileName = LOCAL_PROFILE,
    job: ProfileChanges = None,
    stage: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Train only this stage of the recipe (default: all that are not finished)."
        ),
    ] = "",
    profile_steps: ProfileSteps = 0,
    allow_incomplete_record: AllowIncompleteRecord = False,
    as_json: AsJson = False,
) -> None:
    """Train a recipe on a committed dataset, or resume, and print run ID and checkpoint."""
    chosen = chosen_recipe(recipe, seed=seed, engine=engine, overrides=overrides)
    from llava_av.cli.display import console_progress
    from llava_av.cli.session import session
    from llava_av.datasets.commits import find_commits
    from llava_av.experiments.completeness import require_record
    from llava_av.storage import ObjectStore
    from llava_av.workflows.open_run import default_record, open_committed_run, record_needs
    from llava_av.workflows.train import describing_interrupted, stage_step, train_step

    if stage:
        chosen.schedule.named(stage)  # fails before any server starts
    profiled = {PROFILE_STEPS_VARIABLE: str(profile_steps)} if profile_steps else {}
    target = chosen_target(launcher, profile, job, profiled)
    needs = record_needs(target, allow_incomplete=allow_incomplete_record)
    experiment = default_record(experiment, dataset)
    require_record(experiment, needs)
    # On a cluster the launcher deletes the job.
    on_signal = _ON_SIGNAL if target.profile is None else ""
    with session(output_dir, require_mlflow=False, on_signal=on_signal) as workspace:
        store = ObjectStore.from_env()
        run = open_committed_run(store, chosen, find_commits(store, dataset), experiment, needs)
        if not as_json:
            print(f"run {run.id}", flush=True)
        profiled |= {PROFILE_FOLDER_VARIABLE: str(workspace.logs / "profile")}
        with set_variables(profiled), describing_interrupted(run), console_progress():
            trained = (
                stage_step(workspace, run.id, stage, target=target)
                if stage
                else train_step(workspace, run.id, target=target)
            )
        if as_json:
            print_json({"run": run.id, "checkpoint": trained.checkpoint.model_dump(mode="json")})
        else:
            print(f"checkpoint {trained.checkpoint.uri}")


def register(run: RunIdArgument, output_dir: OutputDir = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Register a run's checkpoint in MLflow as a model version with its lineage."""
    from llava_av.cli.session import require_state, session
    from llava_av.workflows.register import register_step

    require_state(output_dir, run)
    with session(output_dir) as workspace:
        registered = register_step(workspace, run)
        if as_json:
            print_json({"name": registered.name, "version": registered.version})
        else:
            print(f"{registered.name} version {registered.version}")


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Run ID; with --task also models:/NAME/VERSION, s3://… or a folder.")
    ],
    task: Annotated[str | None, typer.Option(help="Name or YAML file of a task.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the task's data in its published format.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size, with --task.")] = 16,
    processes: Annotated[int, typer.Option(min=1, help="Number of processes, with --task.")] = 1,
    output_dir: OutputDir = DEFAULT_FOLDER,
    launcher: LauncherName = "local",
    profile: ProfileName = LOCAL_PROFILE,
    job: ProfileChanges = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run on its held-out samples, or any model on a task, with and without each modality."""
    if (task is None) != (data is None):
        raise UserError("give both --task and --data, or neither to use a run's held-out samples")
    from llava_av.cli.display import console_progress
    from llava_av.cli.session import session
    from llava_av.workflows.evaluate import accuracy_metrics, evaluate_step

    target = chosen_target(launcher, profile, job)
    if task is not None and data is not None:
        from llava_av.evaluation.tasks import load_task, read_task_samples

        read_task_samples(load_task(task), data)  # fails before any server starts
    with session(output_dir, resumes=True) as workspace, console_progress():
        if task is None or data is None:
            evaluation = evaluate_step(workspace, model, target=target)
        else:
            from llava_av.workflows.evaluate_task import evaluate_task_step

            evaluation = evaluate_task_step(
                workspace, model, task, data, batch_size=batch_size, processes=processes, target=target
            )
    if as_json:
        print_json(evaluation.to_json())
    else:
        for name, value in accuracy_metrics(evaluation).items():
            print(printable(f"{name} {value:.4f}"))


def promote(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run ID, or models:/NAME/VERSION.")],
    reason: Annotated[str, typer.Option(help="Reason, for the record (default: the gate passed).")] = "",
    gate: Annotated[str, typer.Option(help="Name of a gate in gates/, or a file.")] = "champion",
    despite_gate: Annotated[
        bool, typer.Option("--despite-gate", help="Promote even if the gate fails; needs --reason.")
    ] = False,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Apply the gate and move the alias `champion` if it passes.

    Exit with 1 if it fails, and with 3 if the dataset lacks its family of questions, and it is not applied.
    """
    from llava_av.cli.session import require_state, session
    from llava_av.runs import Registration, Run
    from llava_av.storage import ObjectStore
    from llava_av.workflows.promote import describe_gate, promote_step, run_of_version

    require_state(output_dir, run)
    with session(output_dir) as workspace:
        run_id = run_of_version(run)
        decided = promote_step(workspace, run_id, rules=gate, reason=reason, override=despite_gate)
        registered = Run(store=ObjectStore.from_env(), id=run_id).read(Registration)
    if as_json:
        print_json({"name": registered.name, "version": registered.version, "gate": decided.to_json()})
    else:
        print(describe_gate(decided, registered))
    raise typer.Exit(0 if decided.override else _GATE_EXIT_CODES[decided.verdict])


def index(
    output_dir: OutputDir = DEFAULT_FOLDER,
    reports: Annotated[bool, typer.Option(help="Also fetch the reports of all runs.")] = True,
    as_json: AsJson = False,
) -> None:
    """Write index.html with all runs of the bucket, their reports and their experiments."""
    from llava_av.cli.session import require_state, session
    from llava_av.storage import ObjectStore
    from llava_av.workflows.index import index_step

    require_state(output_dir, "runs")
    with session(output_dir, need_mlflow=False) as workspace:
        made = index_step(ObjectStore.from_env(), workspace.folder, reports=reports)
    if as_json:
        print_json({"page": str(made.page), "runs": made.runs, "reports": made.reports})
    else:
        print(f"{made.page}: {count_of(made.runs, 'run')}, {made.reports} with a report")


def report(run: RunIdArgument, output_dir: OutputDir = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Write report.html and summary.json of a run."""
    from llava_av.cli.session import require_state, session
    from llava_av.workflows.report import report_step

    require_state(output_dir, run)
    with session(output_dir) as workspace:
        made = report_step(workspace, run)
    if as_json:
        print_json({"report": str(made.report), "summary": str(made.summary)})
    else:
        print(f"{made.report}\n{made.summary}")
