"""Metrics of a run: a local journal that trackers show, and gauges for Prometheus.

`journal.py` appends the metrics of each step to a local file; training depends on nothing else. For each
tracker, a thread of `follower.py` feeds it the journal: to the MLflow run of `mlflow_run.py`, with the client
of `connection.py`, which catches up later if MLflow was away, and to those of `trackers.py`, TensorBoard and
Weights & Biases. `description.py` names the run and its parameters for all of them. `mirrored_records.py`
mirrors experiment records and outcomes to MLflow as notes and tags. With `prometheus.py` a running job serves
its metrics to Prometheus.
"""
