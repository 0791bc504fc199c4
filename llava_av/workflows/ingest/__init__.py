"""Distributed ingest: the processes of a job read shares of a source, and rank zero commits it once.

`request` defines the requested commit. `launching` runs it as a job, on this machine or on a cluster; `job`
is one process of that job, whose command line is `__main__`. The processes exchange their results through the
object store (`datasets.ingest_results`).
"""

__all__: list[str] = []
