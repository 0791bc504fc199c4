"""`python -m llava_av.launch.session … --file FILE --seconds SECONDS`: S3 keys for the run of a job alone.

It takes the job's arguments and runs in a container before the job's own, which does not have its keys.
"""

import logging
import os
import sys
from pathlib import Path

from llava_av.launch.rights import run_policy
from llava_av.processes import job_main
from llava_av.runs import DatasetName, EvaluationWork, Run
from llava_av.storage import ObjectStore
from llava_av.storage.keys import write_keys
from llava_av.storage.sts import session_keys

__all__ = ["lend"]

_LOG = logging.getLogger(__name__)

# The chart sets it where clients send MLflow's artifacts to S3 themselves.
_DIRECT = "MLFLOW_S3_ENDPOINT_URL"


def lend(run: str, _work: Path, *, file: str, seconds: str, at: str = "") -> None:
    """Write keys that may do what a job of this run does, and nothing else.

    Args:
        run: Run ID.
        _work: Folder of the job, which this does not use.
        file: Where the keys go, in the format of `llava_av.storage.keys`.
        seconds: Time after which they expire.
        at: Place below the run of the evaluation that is meant; empty for the run itself.

    Raises:
        UserError: The run does not exist, or the server gives no such keys.
    """
    store = ObjectStore.from_env()
    place = f"{at.rstrip('/')}/" if at else ""
    dataset, model = _inputs(Run(store=store, id=run), place)
    policy = run_policy(
        store.bucket,
        run,
        dataset={"name": dataset.name, "commit": dataset.commit},
        model=store.key(model).rstrip("/") if model.startswith("s3://") else None,
        at=place,
        mlflow_artifacts=bool(os.environ.get(_DIRECT)),
    )
    write_keys(Path(file), session_keys(store.settings, policy, int(seconds)))
    _LOG.info("S3 keys for run %s alone expire in %s s", run, seconds)


def _inputs(run: Run, place: str) -> tuple[DatasetName, str]:
    """Return the dataset, and the address of the evaluated model or of the one that training starts from."""
    if place:
        work = run.read(EvaluationWork, place)
        return work.dataset, work.checkpoint.uri
    request = run.request()
    return request.dataset, request.recipe_json.get("model", {}).get("base") or ""


if __name__ == "__main__":
    options = {
        "at": "place below the run of the evaluation that is meant; by default the run's own",
        "file": "where the keys go",
        "seconds": "time after which they expire",
    }
    sys.exit(job_main("llava_av.launch.session", lambda: lend, options=options))
