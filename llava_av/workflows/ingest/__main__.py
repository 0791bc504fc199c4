"""One process of an ingest: `python -m llava_av.workflows.ingest --run INGEST --work DIR --request JSON`."""

from collections.abc import Callable

from llava_av.processes import exit_without_teardown, job_main


def _load() -> Callable[..., None]:
    from llava_av.workflows.ingest.job import ingest

    return ingest


if __name__ == "__main__":
    options = {"request": "the requested commit as JSON (llava_av.workflows.ingest.request)"}
    exit_without_teardown(job_main("llava_av.workflows.ingest", _load, options=options))
