"""Session keys of S3 for one job: `python -m llava_av.launch.session_keys … --file FILE --seconds SECONDS`.

It takes the job's arguments and runs in an init container. Only this container has the keys of the Secret;
the job's own container has the session keys, which are limited to its run.
"""

import logging
import os
import sys
from pathlib import Path

from llava_av.launch.rights import run_policy
from llava_av.processes import job_main
from llava_av.runs import DatasetName, EvaluationWork, Run, RunRequest, StageResults
from llava_av.storage import ObjectStore
from llava_av.storage.keys import write_keys
from llava_av.storage.sts import session_keys

__all__ = ["write_session_keys"]

_LOG = logging.getLogger("llava_av.launch.session_keys")

# The chart sets it if clients send MLflow's artifacts to S3 directly.
_DIRECT_ARTIFACTS = "MLFLOW_S3_ENDPOINT_URL"


def write_session_keys(run: str, _work: Path, *, file: str, seconds: str, at: str = "") -> None:
    """Write keys that permit only what a job of this run does.

    Args:
        run: Run ID.
        _work: Folder of the job; unused.
        file: File for the keys, in the format of `llava_av.storage.keys`.
        seconds: Lifetime of the keys.
        at: Path of the evaluation below the run; empty for the run itself.

    Raises:
        UserError: The run does not exist, or the server issues no session keys.
    """
    store = ObjectStore.from_env()
    path = f"{at.rstrip('/')}/" if at else ""
    (dataset, *further), models = _inputs(Run(store=store, id=run), path)
    policy = run_policy(
        store.bucket,
        run,
        dataset={"name": dataset.name, "commit": dataset.commit},
        further_datasets=[one.name for one in further],
        models=[store.key(model).rstrip("/") for model in models if model.startswith("s3://")],
        at=path,
        mlflow_artifacts=bool(os.environ.get(_DIRECT_ARTIFACTS)),
    )
    write_keys(Path(file), session_keys(store.settings, policy, int(seconds)))
    _LOG.info("the S3 keys for run %s expire in %s s", run, seconds)


def _inputs(run: Run, path: str) -> tuple[tuple[DatasetName, ...], list[str]]:
    """Return the datasets, and the addresses of the evaluated model and of the run's base models.

    The training starts from the base model, and its stages from the checkpoints of earlier ones. An adapter
    that it trained needs them too.
    """
    request, stages = run.find(RunRequest), run.find(StageResults)
    base = [request.base_model] if request is not None and request.base_model else []
    base += [stage.checkpoint.uri for stage in stages.stages] if stages is not None else []
    if path:
        work = run.read(EvaluationWork, path)
        return (work.dataset,), [work.checkpoint.uri, *base]
    return run.request().datasets, base


if __name__ == "__main__":
    options = {
        "at": "path of the evaluation below the run; the run's own evaluation by default",
        "file": "file for the keys",
        "seconds": "lifetime of the keys",
    }
    sys.exit(job_main("llava_av.launch.session_keys", lambda: write_session_keys, options=options))
