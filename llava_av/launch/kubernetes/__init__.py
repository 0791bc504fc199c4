"""Jobs as PyTorchJobs of a Kubernetes cluster."""
