"""Metrics of a run: a local journal that MLflow mirrors, and gauges for Prometheus.

`journal.py` appends the metrics of each step to a local file; training depends on nothing else. The thread
in `mlflow_run.py` copies the journal to an MLflow run, or later if MLflow was away, with the client of
`connection.py`. `mirrored_records.py` mirrors experiment records and outcomes to MLflow as notes and tags.
With `prometheus.py` a running job serves its metrics to Prometheus.
"""
