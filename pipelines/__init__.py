"""The Kubeflow pipeline; only the command line imports it."""
