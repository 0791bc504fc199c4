"""Throughput of a step, and the peaks of GPUs."""

import pytest

from llava_av.training.gpu_peaks import peak_flops
from llava_av.training.model_flops import BatchCounts, ModelFlops, trained_shares
from llava_av.training.throughput import Throughput
from tests.engine_group import EVERYTHING, TURNS
from tests.model_samples import tiny_model


def test_metrics_are_per_gpu_and_count_useful_tokens() -> None:
    model, processor = tiny_model()
    encoded = [processor.encode(TURNS, one) for one in EVERYTHING]
    batches = [processor.collate(encoded[:3]), processor.collate(encoded[3:])]
    flops, trained = ModelFlops(model.config), trained_shares(model)
    throughput = Throughput(flops, trained, "fp32", processes=2)
    mine = throughput.work(batches)
    tokens = sum(len(one.input_ids) for one in encoded)
    positions = sum(batch["input_ids"].numel() for batch in batches)
    counts = [BatchCounts.of(batch) for batch in batches]
    operations = sum(flops.training(one, trained) for one in counts)
    assert mine == [pytest.approx(operations), len(EVERYTHING), positions]
    every = [2 * one for one in mine]
    found = throughput.metrics(2 * tokens, every, 0.5)
    assert found["tokens_per_s_per_gpu"] == tokens / 0.5
    assert found["samples_per_s_per_gpu"] == len(EVERYTHING) / 0.5
    assert 0 < found["padding_share"] < 1
    assert found["padding_share"] == pytest.approx(1 - tokens / positions)
    assert found["tflops_per_gpu"] == pytest.approx(operations / 0.5 / 1e12)
    assert "mfu" not in found, "a CPU has no peak"


@pytest.mark.parametrize(
    ("name", "bf16", "tf32"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12, 494.7e12),
        ("NVIDIA H100 PCIe", 756e12, 378e12),
        ("NVIDIA H200", 989.4e12, 494.7e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("NVIDIA L40S", 362e12, 183e12),
        ("NVIDIA A10G", 70e12, 35e12),
        ("AMD Instinct MI300X", 1307.4e12, 653.7e12),
    ],
)
def test_known_gpus_have_the_peaks_of_their_data_sheets(name: str, bf16: float, tf32: float) -> None:
    assert peak_flops(name, "bf16") == pytest.approx(bf16)
    assert peak_flops(name, "fp32") == pytest.approx(tf32)


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090", "NVIDIA T4", "H1000", ""])
def test_unknown_gpus_have_none(name: str) -> None:
    assert peak_flops(name, "bf16") is None
