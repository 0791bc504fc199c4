"""NaN and infinity in weights of every type of safetensors."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava_av.checkpoints.checkpoint_manifest import CheckpointError
from llava_av.checkpoints.finite_weights import first_non_finite

FLOATS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e5m2,
    torch.float8_e4m3fn,
    torch.complex64,
]


def written(folder: Path, value: float, dtype: torch.dtype) -> Path:
    weight = torch.zeros(1001, dtype=torch.complex64 if dtype.is_complex else torch.float64)
    weight[998], weight[999] = torch.finfo(dtype).max, -torch.finfo(dtype).max
    weight[1000] = value
    others = {"odd": torch.ones(3, dtype=torch.uint8), "count": torch.tensor([2**31 - 1, -1])}
    save_file({**others, "a.weight": weight.to(dtype)}, folder / "model.safetensors", {"format": "pt"})
    return folder / "model.safetensors"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_finite_weights_pass(tmp_path: Path, dtype: torch.dtype) -> None:
    assert first_non_finite(written(tmp_path, 1.0, dtype)) is None


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    if dtype == torch.float8_e4m3fn and math.isinf(value):
        pytest.skip("this type has no infinity")
    assert first_non_finite(written(tmp_path, value, dtype)) == "a.weight"


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 64, (8).to_bytes(8, "little") + b"[1, 2, 3"])
def test_other_files_than_safetensors_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        first_non_finite(path)
