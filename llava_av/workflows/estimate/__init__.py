"""Estimate of a recipe's size on a number of GPUs, before anything is trained.

`meta_model` builds the recipe's model on the meta device, without memory for its weights, and counts its
parameters by part. `activations` runs its forward pass there, and `saved_bytes` adds up what autograd would
save. `memory` computes the bytes of weights, gradients, optimizer states and buffers for each engine and ZeRO
stage, and the size of a checkpoint. `estimating` combines these, and `advice` names a change with which a
recipe fits.
"""

__all__: list[str] = []
