"""Training: order of samples, batches, engines, loop, checkpoints and metrics of one run."""
