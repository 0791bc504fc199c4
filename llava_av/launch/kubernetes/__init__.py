"""Launcher that runs jobs as PyTorchJobs of the Kubeflow training operator.

`pytorchjob.py` builds the PyTorchJob, `pod_template.py` the pods in it, and `manifest_text.py` their YAML.
`launcher.py` creates or adopts the job and deletes it when it is interrupted. While the job runs,
`watch.py` merges changes of the job, of its pods and of its log, which `pod_logs.py` follows, into one stream
of events; `job_progress.py` turns these events into warnings and an outcome, and `diagnosis.py` explains why
a pod does not run or failed. `orphans.py` deletes jobs whose pipeline run has ended without them. All of them
reach the API server through `client.py`.
"""
