"""Bodies of the pipeline's steps.

Kubeflow Pipelines ships the source of each function separately, so each function imports what it needs in its
body and contains no logic. The workspace comes from an environment variable, since the local runner rewrites
text in parameters. An artifact keeps the address that the backend gave it, because the backend uploads only
from there; its file and its metadata contain the address of the actual object.
"""

from kfp import dsl

__all__ = ["cleanup", "data", "evaluate", "promote", "register", "report", "train"]


def data(
    recipe: str,
    overrides: str,
    dataset: str,
    dataset_name: str,
    experiment: str,
    launcher: str,
    profile: str,
    gpus: int,
    train_image: str,
    job: str,
    allow_incomplete_record: bool,
    commit: str,
    committed: dsl.Output[dsl.Dataset],
    job_target: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> str:
    """Resolve the job target, commit the dataset and open the run; return the run ID."""
    from pathlib import Path

    from llava_av.workflows.runtime.workspace import step_process

    with step_process("data") as workspace:
        from llava_av.workflows.open_run import open_run_step
        from llava_av.workflows.runtime.job_target import pipeline_changes, resolve_job_target

        chosen = resolve_job_target(launcher, profile, pipeline_changes(job, image=train_image, gpus=gpus))
        opened = open_run_step(
            workspace,
            recipe=recipe,
            overrides=overrides,
            dataset=dataset,
            dataset_name=dataset_name,
            experiment=experiment,
            target=chosen,
            allow_incomplete_record=allow_incomplete_record,
            commit=commit,
        )
        Path(job_target).write_text(chosen.to_text(), encoding="utf-8")
        Path(committed.path).write_text(opened.dataset_uri, encoding="utf-8")
    committed.metadata["source"] = opened.dataset_uri
    committed.metadata["name"] = opened.dataset_name
    committed.metadata["commit"] = opened.dataset_commit
    return str(opened.run)


def train(run: str, job_target: str, checkpoint: dsl.Output[dsl.Model]) -> str:
    """Train, resume or find the finished checkpoint; return its address."""
    from pathlib import Path

    from llava_av.workflows.runtime.workspace import step_process

    with step_process("train") as workspace:
        from llava_av.workflows.runtime.job_target import JobTarget
        from llava_av.workflows.train import train_step

        trained = train_step(workspace, run, target=JobTarget.from_text(job_target))
        Path(checkpoint.path).write_text(trained.checkpoint.uri, encoding="utf-8")
    checkpoint.metadata["source"] = trained.checkpoint.uri
    checkpoint.metadata["digest"] = trained.checkpoint.digest
    return trained.checkpoint.uri


def register(run: str, model: dsl.Output[dsl.Model], links: dsl.Output[dsl.Markdown]) -> str:
    """Register the checkpoint as a model version; return `name/version`."""
    from pathlib import Path

    from llava_av.workflows.runtime.workspace import step_process

    with step_process("register") as workspace:
        from llava_av.workflows.register import links_page, register_step

        registered = register_step(workspace, run)
        Path(links.path).write_text(links_page(registered), encoding="utf-8")
        Path(model.path).write_text(registered.uri, encoding="utf-8")
    model.metadata["source"] = registered.uri
    model.metadata["name"] = registered.name
    model.metadata["version"] = registered.version
    return f"{registered.name}/{registered.version}"


def evaluate(run: str, job_target: str, metrics: dsl.Output[dsl.Metrics]) -> str:
    """Evaluate on the held-out split with and without each modality; return the checkpoint's digest."""
    from llava_av.workflows.runtime.workspace import step_process

    with step_process("evaluate") as workspace:
        from llava_av.workflows.evaluate import accuracy_metrics, evaluate_step
        from llava_av.workflows.runtime.job_target import JobTarget

        evaluation = evaluate_step(workspace, run, target=JobTarget.from_text(job_target))
    for name, value in accuracy_metrics(evaluation).items():
        metrics.log_metric(name, value)
    return evaluation.checkpoint.digest


def promote(run: str, gate: bool, decision: dsl.Output[dsl.Markdown]) -> str:
    """Apply the gate and move the alias; return `passed`, `failed` or `not run`."""
    from pathlib import Path

    from llava_av.workflows.runtime.workspace import step_process

    with step_process("promote") as workspace:
        from llava_av.workflows.promote import decision_page, promote_step

        decided = promote_step(workspace, run, gate=gate)
        Path(decision.path).write_text(decision_page(run, decided), encoding="utf-8")
    return str(decided.verdict)


def report(run: str, page: dsl.Output[dsl.HTML]) -> str:
    """Write report.html and summary.json; return the summary as JSON."""
    import shutil

    from llava_av.workflows.runtime.workspace import step_process

    with step_process("report") as workspace:
        from llava_av.workflows.report import report_step

        made = report_step(workspace, run)
        shutil.copyfile(made.report, page.path)
        summary = made.summary.read_text(encoding="utf-8")
    return summary


def cleanup(
    launcher: str,
    profile: str,
    job: str,
    status: dsl.PipelineTaskFinalStatus,
    summary: dsl.Output[dsl.Markdown],
) -> str:
    """Delete the run's orphaned jobs and report which steps failed and why; return `ok` or the causes."""
    from pathlib import Path

    from llava_av.workflows.runtime.workspace import step_process

    with step_process("cleanup"):
        from llava_av.workflows.cleanup import cleanup_step

        ended = cleanup_step(launcher, profile, job, state=status.state)
        Path(summary.path).write_text(ended.page, encoding="utf-8")
    return ended.line
