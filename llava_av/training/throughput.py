"""Throughput of a step: model FLOPs utilisation, tokens and samples per GPU, and the share of padding."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llava_av.training.gpu_peaks import peak_flops
from llava_av.training.model_flops import BatchCounts, ModelFlops
from llava_av.vocabulary import PartName

__all__ = ["Throughput"]


class Throughput:
    """Work of this process in a step, and the metrics of the work of all processes.

    Args:
        flops: Operations of the model's forward pass; None if they cannot be counted.
        trained: Share of trained weights by part.
        precision: Precision that the recipe computes with.
        processes: Number of processes, one for each GPU.
    """

    def __init__(
        self, flops: ModelFlops | None, trained: Mapping[PartName, float], precision: str, processes: int
    ) -> None:
        self._processes = processes
        self._trained = trained
        self._flops = flops
        # The peak of a CPU is not known.
        self._peak = (
            peak_flops(torch.cuda.get_device_name(), precision) if torch.cuda.is_available() else None
        )

    def work(self, micro_batches: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return the FLOPs, samples and computed positions (with padding) of this process in a step.

        Args:
            micro_batches: Arguments of the model's `forward`, of each micro-batch.
        """
        counts = [BatchCounts.of(tensors) for tensors in micro_batches]
        flops = 0.0
        if self._flops is not None:
            flops = sum(self._flops.training(one, self._trained) for one in counts)
        samples = sum(len(one.tokens) for one in counts)
        return [flops, samples, sum(tensors["input_ids"].numel() for tensors in micro_batches)]

    def metrics(self, tokens: float, work: Sequence[float], step_s: float) -> dict[str, float]:
        """Return the metrics of a step.

        Args:
            tokens: Tokens without padding, over all processes.
            work: Sum of `work` over all processes.
            step_s: Duration of the step in seconds.
        """
        flops, samples, positions = work
        gpu_s = step_s * self._processes
        found = {
            "tokens_per_s_per_gpu": tokens / gpu_s,
            "samples_per_s_per_gpu": samples / gpu_s,
            "padding_share": 1 - tokens / positions,
        }
        if self._flops is not None:
            found["tflops_per_gpu"] = flops / gpu_s / 1e12
        if self._flops is not None and self._peak is not None:
            found["mfu"] = flops / gpu_s / self._peak
        return found
