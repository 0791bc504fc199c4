"""The bodies of the pipeline's steps.

Kubeflow Pipelines ships the source of each function by itself, so each imports what it needs in its body
and holds no logic. `Workspace` is named by the environment and not by a parameter: the local runner
rewrites text in parameters.
"""

from kfp import dsl

__all__ = ["data", "evaluate", "promote", "register", "report", "train"]


def data(
    recipe: str,
    overrides: str,
    dataset: str,
    dataset_name: str,
    experiment: str,
    committed: dsl.Output[dsl.Dataset],
) -> str:
    """Commit the dataset and open the run; returns the run's key."""
    from llava_av.steps.context import step_process

    with step_process("data") as workspace:
        from llava_av.steps.data import open_run_step

        opened = open_run_step(
            workspace,
            recipe=recipe,
            overrides=overrides,
            dataset=dataset,
            dataset_name=dataset_name,
            experiment=experiment,
        )
    committed.uri = opened.dataset_uri
    committed.metadata["name"] = opened.dataset_name
    committed.metadata["commit"] = opened.dataset_commit
    return str(opened.run)


def train(run: str, launcher: str, profile: str, checkpoint: dsl.Output[dsl.Model]) -> str:
    """Train, or resume, or find the finished checkpoint; returns its address."""
    from llava_av.steps.context import step_process

    with step_process("train") as workspace:
        from llava_av.steps.jobs import job_place
        from llava_av.steps.train import train_step

        trained = train_step(workspace, run, place=job_place(launcher, profile))
    checkpoint.uri = trained["checkpoint"]["uri"]
    checkpoint.metadata["digest"] = trained["checkpoint"]["digest"]
    return str(checkpoint.uri)


def register(run: str, model: dsl.Output[dsl.Model]) -> str:
    """Register the checkpoint as a model version; returns `name/version`."""
    from llava_av.steps.context import step_process

    with step_process("register") as workspace:
        from llava_av.steps.register import register_step

        registered = register_step(workspace, run)
    model.uri = f"models:/{registered['name']}/{registered['version']}"
    model.metadata["name"] = registered["name"]
    model.metadata["version"] = registered["version"]
    return f"{registered['name']}/{registered['version']}"


def evaluate(run: str, launcher: str, profile: str, metrics: dsl.Output[dsl.Metrics]) -> str:
    """Evaluate on the held-out split with and without each modality; returns the checkpoint's digest."""
    from llava_av.steps.context import step_process

    with step_process("evaluate") as workspace:
        from llava_av.steps.evaluate import accuracy_table, evaluate_step
        from llava_av.steps.jobs import job_place

        evaluation = evaluate_step(workspace, run, place=job_place(launcher, profile))
    for name, value in accuracy_table(evaluation).items():
        metrics.log_metric(name, value)
    return str(evaluation["checkpoint"]["digest"])


def promote(run: str, gate: bool) -> str:
    """Apply the gate and move the alias; returns `passed`, `failed` or `not run`."""
    from llava_av.steps.context import step_process

    with step_process("promote") as workspace:
        from llava_av.steps.promote import promote_step

        decided = promote_step(workspace, run, gate=gate)
    return {True: "passed", False: "failed", None: "not run"}[decided["passed"]]


def report(run: str, page: dsl.Output[dsl.HTML]) -> str:
    """Make report.html and summary.json; returns the summary as JSON."""
    import shutil

    from llava_av.steps.context import step_process

    with step_process("report") as workspace:
        from llava_av.steps.report import report_step

        made = report_step(workspace, run)
    shutil.copyfile(made.report, page.path)
    return made.summary.read_text(encoding="utf-8")
