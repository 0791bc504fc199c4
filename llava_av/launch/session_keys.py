"""Session keys of S3 for one job: `python -m llava_av.launch.session_keys … --file FILE --seconds SECONDS`.

It takes the job's arguments and runs in an init container. Only this container has the keys of the Secret;
the job's own container has the session keys, which are limited to its run.
"""

import logging
import os
import sys
from pathlib import Path

from llava_av.launch.rights import Policy, run_policy
from llava_av.processes import job_main
from llava_av.runs import DatasetName, EvaluationWork, Run, RunRequest
from llava_av.storage import ObjectStore
from llava_av.storage.access_keys import write_keys
from llava_av.storage.sts import session_keys

__all__ = ["session_policy", "write_session_keys"]

_LOG = logging.getLogger("llava_av.launch.session_keys")

# The chart sets it if clients send MLflow's artifacts to S3 directly.
_DIRECT_ARTIFACTS = "MLFLOW_S3_ENDPOINT_URL"


def write_session_keys(run: str, _work: Path, *, file: str, seconds: str, at: str = "") -> None:
    """Write keys that permit only what a job of this run does.

    Args:
        run: Run ID.
        _work: Folder of the job; unused.
        file: File for the keys, in the format of `llava_av.storage.access_keys`.
        seconds: Lifetime of the keys.
        at: Path of the evaluation below the run; empty for the run itself.

    Raises:
        UserError: The run does not exist, its policy is too long, or the server issues no session keys.
    """
    store = ObjectStore.from_env()
    policy = session_policy(Run(store=store, id=run), at)
    write_keys(Path(file), session_keys(store.settings, policy, int(seconds)))
    _LOG.info("the S3 keys for run %s expire in %s s", run, seconds)


def session_policy(run: Run, at: str = "") -> Policy:
    """Return the policy of the session keys of a run's job.

    Args:
        run: The run.
        at: Path of the evaluation below the run; empty for the run itself.

    Raises:
        UserError: The run does not exist, or its policy is too long.
    """
    path = f"{at.rstrip('/')}/" if at else ""
    (dataset, *further), models = _inputs(run, path)
    return run_policy(
        run.store.bucket,
        run.id,
        dataset={"name": dataset.name, "commit": dataset.commit},
        further_datasets=[one.name for one in further],
        models=[run.store.key(model).rstrip("/") for model in models if model.startswith("s3://")],
        at=path,
        mlflow_artifacts=bool(os.environ.get(_DIRECT_ARTIFACTS)),
    )


def _inputs(run: Run, path: str) -> tuple[tuple[DatasetName, ...], list[str]]:
    """Return the datasets, and the addresses of the evaluated model and of base models.

    The training starts from the run's base model, and an adapter needs the one that it was trained on.
    """
    request = run.find(RunRequest)
    bases = [request.base_model] if request is not None and request.base_model else []
    if not path:
        return run.request().datasets, bases
    work = run.read(EvaluationWork, path)
    bases += [work.adapter_base] if work.adapter_base else []
    return (work.dataset,), list(dict.fromkeys([work.checkpoint.uri, *bases]))


if __name__ == "__main__":
    options = {
        "at": "path of the evaluation below the run; the run's own evaluation by default",
        "file": "file for the keys",
        "seconds": "lifetime of the keys",
    }
    sys.exit(job_main("llava_av.launch.session_keys", lambda: write_session_keys, options=options))
