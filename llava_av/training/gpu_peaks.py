"""Peak throughput of GPUs in matrix products, from their makers' data sheets, without sparsity."""

__all__ = ["peak_flops"]

# By a part of the name that CUDA or ROCm reports, special names before general ones: 1e12 FLOP/s in bfloat16
# and in TensorFloat-32.
_PEAKS = (
    ("GB300", 2500.0, 1250.0),
    ("B300", 2250.0, 1125.0),
    ("GB200", 2500.0, 1250.0),
    ("B200", 2250.0, 1125.0),
    ("B100", 1750.0, 875.0),
    ("GH200", 989.4, 494.7),
    ("H200", 989.4, 494.7),
    ("H100 PCIe", 756.0, 378.0),
    ("H100 NVL", 835.0, 417.5),
    ("H100", 989.4, 494.7),
    ("H800", 989.4, 494.7),
    ("A100", 312.0, 156.0),
    ("A800", 312.0, 156.0),
    ("L40S", 362.0, 183.0),
    ("L40", 181.0, 90.5),
    ("A40", 149.7, 74.8),
    ("A10G", 70.0, 35.0),
    ("A10", 125.0, 62.5),
    ("L4", 121.0, 60.0),
    ("MI325X", 1307.4, 653.7),
    ("MI300X", 1307.4, 653.7),
)


def peak_flops(name: str, precision: str) -> float | None:
    """Return the peak FLOP/s of a GPU; None if the GPU is unknown.

    Args:
        name: Name of the device, as `torch.cuda.get_device_name` returns it.
        precision: `bf16` or `fp32`; the latter multiplies in TensorFloat-32.
    """
    words = f" {name.replace('-', ' ')} "
    for part, bf16, tf32 in _PEAKS:
        if f" {part} " in words:
            return 1e12 * (bf16 if precision == "bf16" else tf32)
    return None
