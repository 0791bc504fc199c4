"""Benchmark on a GPU as a program: what it imports, and a run with tiny models on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_ABSENT = ("av", "boto3", "decord", "deepspeed", "minio", "mlflow", "pi_heif", "pydantic", "torchaudio")
_ABSENT += ("scipy", "torchao", "torchcodec", "torchvision", "urllib3")
_IMPORTED = ("benchmarks.gpu", "benchmarks.gpu_part", "llava_av.training.trainer", "tests.gpu.tiny_models")


@pytest.mark.slow
@pytest.mark.integration
def test_it_needs_nothing_besides_pytorch_transformers_and_peft() -> None:
    """A module that is None in `sys.modules` counts as not installed."""
    code = (
        f"import sys, importlib\nsys.modules.update(dict.fromkeys({_ABSENT!r}))\n"
        f"for name in {_IMPORTED!r}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2_000:]


@pytest.mark.slow
def test_it_runs_with_tiny_models_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--small", f"--output={tmp_path}", "--minutes=8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=True)
    found = json.loads((tmp_path / "results.json").read_text())
    assert done.stdout == (tmp_path / "results.md").read_text() + "\n"
    assert found["tests"]["error"] is None
    assert found["tests"]["skipped"] > 0
    assert list(found["models"]) == ["7B, adapters", "0.5B, all parts"]
    for part in found["models"].values():
        assert part["error"] is None
        assert len(part["ways"]) == 5
        for way in part["ways"]:
            assert way["notes"] == []
            assert all(run["tokens"] > 0 and run["flops"] > 0 for run in way["runs"])
            assert len(way["runs"]) == 1
        loaded, in_memory, padded, _, flattened = (way["runs"][0] for way in part["ways"])
        assert loaded["wait_s"] > in_memory["wait_s"] == 0
        # The Trainer saw the same samples, once padded and once without padding.
        assert loaded["samples"] == padded["samples"] == flattened["samples"]
        assert flattened["tokens"] == flattened["positions"]
        assert padded["tokens"] < padded["positions"]
