"""`llava-av submit`: train a recipe on a cluster as a PyTorchJob."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.display import print_json
from llava_av.cli.options import (
    COMMITTED_DATASETS,
    AllowIncompleteRecord,
    AsJson,
    ExperimentName,
    OutputDir,
    Overrides,
    ProfileChanges,
    ProfileName,
    RecipeArgument,
    SeedOption,
    chosen_recipe,
    parsed_overrides,
)
from llava_av.errors import UserError
from llava_av.logs import relay_line
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.launch import JobProfile, JobSpec
    from llava_av.recipe import Recipe

__all__ = ["submit"]

_RUN = "run "
_RUN_LINE = re.compile(rf"{_RUN}[0-9a-f]{{16}}")


def submit(
    recipe: RecipeArgument,
    dataset: Annotated[str, typer.Option(help=f"Dataset: demo, or {COMMITTED_DATASETS}.")] = "demo",
    profile: ProfileName = "cpu",
    job: ProfileChanges = None,
    image: Annotated[str, typer.Option(help="Image of the job (default: the profile's).")] = "",
    seed: SeedOption = None,
    overrides: Overrides = None,
    experiment: ExperimentName = "",
    name: Annotated[str, typer.Option(help="Name in the printed manifest (default: a hash).")] = "",
    show: Annotated[bool, typer.Option("--print", help="Print the manifest without submitting it.")] = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
    allow_incomplete_record: AllowIncompleteRecord = False,
    as_json: AsJson = False,
) -> None:
    """Train a recipe on a cluster as a PyTorchJob and follow it; Ctrl-C ends the job.

    The job's pods commit the dataset and open the run before training starts, so this machine needs access
    only to the cluster. If you repeat the command, it follows the existing job. The experiment record must be
    complete, here and in the image.
    """
    if name and not show:
        raise UserError("--name requires --print, which shows the manifest: add --print or omit --name")
    changes: dict[str, object] = parsed_overrides(job, "--job")
    if image:
        changes["image"] = image
    from llava_av.launch import load_profile
    from llava_av.workflows.open_run import default_record
    from llava_av.workflows.runtime.job_target import processes_for

    where = load_profile(profile, changes)
    chosen = chosen_recipe(recipe, seed=seed, overrides=overrides, for_cluster=True)
    chosen = chosen.with_overrides(processes_for(where))
    experiment = default_record(experiment, dataset)
    options = ("--allow-incomplete-record",) if allow_incomplete_record else ()
    spec = _training(chosen, dataset, experiment, options)
    if show:
        _print(spec, where, name, as_json=as_json)
        return
    from llava_av.experiments.completeness import require_record
    from llava_av.launch import KubernetesLauncher

    require_record(experiment, "nothing" if allow_incomplete_record else "everything")

    launcher = KubernetesLauncher(output_dir.absolute() / "logs", where)
    lines: list[str] = []

    def keep(line: str) -> None:
        relay_line(line)
        if _RUN_LINE.fullmatch(line):
            lines.append(line)

    done = launcher.run(spec, on_line=keep)
    # The job opens the run; its ID is a result of this command.
    if as_json:
        run = lines[0].removeprefix(_RUN) if lines else None
        print_json({"run": run, "job": done.job, "seconds": done.seconds})
    else:
        print("\n".join([*lines[:1], f"{done.job} succeeded after {done.seconds:.0f} s"]))


def _training(recipe: "Recipe", dataset: str, experiment: str, more: tuple[str, ...]) -> "JobSpec":
    from llava_av.launch import WORK_FOLDER, JobSpec

    run_file, output = f"{WORK_FOLDER}/run", f"{WORK_FOLDER}/out"
    opening = ("python", "-m", "llava_av", "open-run", recipe.stated_json())
    options = ("--dataset", dataset, "--experiment", experiment, "--output-dir", output)
    return JobSpec(
        name="training",
        module="llava_av.training",
        arguments=("--run", f"@{run_file}", "--work", f"{output}/state/work"),
        processes=recipe.training.num_processes,
        prepare=(*opening, *options, *more, "--run-file", run_file),
    )


def _print(spec: "JobSpec", profile: "JobProfile", name: str, *, as_json: bool) -> None:
    from llava_av.launch.kubernetes.manifest_text import manifest_yaml
    from llava_av.launch.kubernetes.pytorchjob import build_job

    manifest = build_job(spec, profile, name=name or None)
    if as_json:
        print_json(manifest)
    else:
        print(manifest_yaml([manifest]), end="")
