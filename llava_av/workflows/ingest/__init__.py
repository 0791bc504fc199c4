"""Distributed ingest: the processes of a job read shares of a source, and rank zero commits it once.

`request` defines the commit that is wanted. `launching` runs it as a job, on this machine or on a cluster;
`job` is one process of that job, whose command line is `__main__`. The results of the processes meet in the
object store (`datasets.ingest_results`).
"""

__all__: list[str] = []
