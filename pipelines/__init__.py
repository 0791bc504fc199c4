"""Kubeflow Pipelines pipeline, run locally or on a cluster; only the command line imports it.

`components` holds the bodies of the steps, and `pipeline` connects them and compiles the result. `local` runs
the pipeline on this machine, `backend` on an installation of Kubeflow Pipelines.
"""
