"""Findings of `llava-av doctor`, and the actions that it suggests."""

from pathlib import Path

import av
import psutil
import pytest
import torch
from typer.testing import CliRunner

from llava_av.cli import doctor_checks
from llava_av.cli.app import app
from llava_av.cli.doctor_checks import Finding, examine

NAMES = {
    "Python",
    "PyAV",
    "FFmpeg",
    "GPU",
    "decord",
    "torch",
    "matplotlib",
    "DeepSpeed",
    "Kubeflow Pipelines",
    "S3",
    "MLflow",
    "cluster",
    "disk",
    "memory",
}


@pytest.fixture(autouse=True)
def _no_servers_named_and_no_slow_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "MLFLOW_TRACKING_URI", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor_checks, "_importable", doctor_checks._installed)


def _found(folder: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(folder)}


def test_every_part_is_examined_and_what_lacks_has_an_action(tmp_path: Path) -> None:
    found = _found(tmp_path)
    assert set(found) == NAMES
    assert all(finding.ok or finding.action for finding in found.values())
    assert found["PyAV"].ok
    assert found["FFmpeg"].detail.startswith(f"{av.ffmpeg_version_info} of PyAV")
    assert found["GPU"].ok == (torch.cuda.device_count() > 0)
    assert not found["GPU"].needed
    assert found["S3"].detail.startswith("embedded SeaweedFS")


def test_full_disk_and_memory_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "_DISK_GB", 1e9)
    monkeypatch.setattr(doctor_checks, "_MEMORY_GB", psutil.virtual_memory().total)
    found = _found(tmp_path / "not" / "yet" / "made")
    assert not found["disk"].ok
    assert str(tmp_path) in found["disk"].detail
    assert not found["memory"].ok


def test_unreachable_servers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    found = _found(tmp_path)
    assert "http://127.0.0.1:9" in found["S3"].detail
    assert "http://127.0.0.1:9" in found["MLflow"].detail
    assert "MLFLOW_TRACKING_URI" in found["MLflow"].action
    assert "secret" not in found["MLflow"].detail


@pytest.mark.parametrize(("version", "fits"), [((3, 10), False), ((3, 13, 9), True), ((3, 14, 0), False)])
def test_python_has_bounds(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], fits: bool) -> None:
    monkeypatch.setattr("llava_av.cli.doctor_checks.sys.version_info", version)
    assert doctor_checks._finding("Python", True, doctor_checks._python).ok == fits


def test_command_that_hangs_is_no_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_checks, "_COMMAND_TIMEOUT_S", 0.1)
    for program in ("kubectl", "weed"):
        (tmp_path / program).write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(doctor_checks.shutil, "which", lambda name, path=None: str(tmp_path / name))
    assert (
        doctor_checks._finding("cluster", False, doctor_checks._cluster).detail
        == "the cluster does not answer"
    )
    assert "does not run" in doctor_checks._finding("S3", True, doctor_checks._s3).detail


def test_missing_module_says_how_to_install_it() -> None:
    with pytest.raises(doctor_checks._Missing) as missing:
        doctor_checks._installed("llava_av_absent")
    assert "pip install" in missing.value.action


@pytest.mark.parametrize(("needed", "code"), [(True, 1), (False, 0)])
def test_exit_code_is_about_what_the_dry_run_needs(
    monkeypatch: pytest.MonkeyPatch, needed: bool, code: int
) -> None:
    row = Finding(name="thing", ok=False, detail="[gone]", action="bring it back", needed=needed)
    monkeypatch.setattr(doctor_checks, "examine", lambda folder: [row])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    assert "[gone]" in result.output
    assert "bring it back" in result.output
