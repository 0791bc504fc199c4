"""Benchmark of dataset versions: `python -m benchmarks.data_versions`.

The folder has `--files` images of random pixels (1 to 20 KB) with one sample each. An embedded S3 server
stores the commits. Each command is a process of its own; the table has its CPU seconds, those of the server
during it, and the peak of its memory. Wall time is not reported, because it depends on other work.

`--rows` adds the manifest of a dataset with that many files whose media do not exist: its ranges are written,
read again, and compared with those of a dataset in which 10 files differ.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from llava_av.datasets.manifest import FileRange, Manifest, blob_key, canonical_json
from llava_av.datasets.ranges import FileRow, cut_files
from llava_av.datasets.reading import open_content
from llava_av.services.servers import ServerOptions, embedded_servers
from llava_av.services.state import StateLock
from llava_av.storage import ObjectStore

_CHANGED = 10
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a process and of the server during it, and the peak of the process's memory."""

    what: str
    cpu_s: float
    server_cpu_s: float
    peak_mb: float

    def __str__(self) -> str:
        return f"| {self.what} | {self.cpu_s:.1f} | {self.server_cpu_s:.1f} | {self.peak_mb:.0f} |"


def write_folder(folder: Path, files: int) -> None:
    """Write images of random pixels, and their conversations."""
    random = np.random.default_rng(0)
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "Noise."}]
    with (folder / "conversations.jsonl").open("w") as lines:
        for number in range(files):
            path = f"images/{number // 1000:04}/{number:07}.png"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            _write_image(folder / path, random)
            lines.write(json.dumps({"id": f"{number:07}", "image": path, "conversations": turns}) + "\n")


def change_folder(folder: Path) -> None:
    """Replace the first images of the folder."""
    random = np.random.default_rng(1)
    for path in sorted(folder.rglob("*.png"))[:_CHANGED]:
        _write_image(path, random)


def _write_image(path: Path, random: np.random.Generator) -> None:
    side = int(random.integers(32, 140))
    Image.fromarray(random.integers(0, 256, (side, side), np.uint8)).save(path, compress_level=0)


def measured(what: str, command: list[str], environment: Mapping[str, str]) -> Cost:
    """Run a command and return its cost.

    Raises:
        RuntimeError: The command failed.
    """
    before = _server_cpu_s()
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{what} failed: {output}")
    # Bytes on macOS, KiB elsewhere.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(what, usage.ru_utime + usage.ru_stime, _server_cpu_s() - before, peak / 1e6)


def _server_cpu_s() -> float:
    found = 0.0
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        found += times.user + times.system
    return found


def measure_folder(folder: Path, work: Path, environment: Mapping[str, str]) -> Iterator[Cost]:
    """Measure commands of `llava-av data` on a folder."""

    def data(what: str, *arguments: str | Path) -> Cost:
        own = [*map(str, arguments), "--output-dir", str(work / "output")]
        return measured(what, [sys.executable, "-m", "llava_av", "data", *own], environment)

    yield data("first commit", "commit", folder, "--name", "files")
    yield data("status, nothing changed", "status", folder, "--name", "files")
    yield data("commit, nothing changed", "commit", folder, "--name", "files")
    change_folder(folder)
    yield data(f"commit after {_CHANGED} files changed", "commit", folder, "--name", "files")
    yield data("log", "log", "files")
    yield data("checkout", "checkout", "files", work / "copy")
    yield data("gc, a list only", "gc")


def write_rows(store: ObjectStore, rows: int, manifest: Path, *, changed: int = 0) -> None:
    """Write the ranges of a dataset with `rows` files, the first of which are changed."""
    ranges: list[FileRange] = []
    for one, content in cut_files(_rows(rows, changed)):
        store.create(blob_key(one.sha256), content)
        ranges.append(one)
    manifest.write_bytes(canonical_json(Manifest(files=tuple(ranges), splits={})))


def _rows(rows: int, changed: int) -> Iterator[FileRow]:
    for number in range(rows):
        digest = hashlib.sha256(b"%d %d" % (number, number < changed)).hexdigest()
        yield FileRow(f"clips/{number // 1000:05}/{number:08}.mp4", digest, 1_000_000 + number)


def read_rows(store: ObjectStore, manifest: Path) -> None:
    """Read all rows of a manifest."""
    content = open_content(store, Manifest.model_validate_json(manifest.read_bytes()), "rows", "0" * 64)
    print(sum(row.bytes for row in content.files))


def compare_rows(store: ObjectStore, before: Path, after: Path) -> None:
    """Compare two manifests."""
    manifests = (Manifest.model_validate_json(path.read_bytes()) for path in (before, after))
    old, new = (open_content(store, one, "rows", "0" * 64).files for one in manifests)
    changed = set(new.except_for(old.digests)) - set(old.except_for(new.digests))
    assert len(changed) == _CHANGED


def measure_rows(rows: int, work: Path, environment: Mapping[str, str]) -> Iterator[Cost]:
    """Measure the manifest of a dataset with `rows` files."""

    def step(what: str, name: str) -> Cost:
        own = ["--rows", str(rows), "--step", name, "--work", str(work)]
        return measured(what, [sys.executable, "-m", "benchmarks.data_versions", *own], environment)

    yield step(f"manifest of {rows:,} files: write", "write")
    yield step("read", "read")
    yield step(f"write with {_CHANGED} files changed", "change")
    yield step("compare", "compare")


def run_step(name: str, rows: int, work: Path) -> None:
    """Run one step on a manifest."""
    store, first, second = ObjectStore.from_env(), work / _MANIFEST, work / f"changed-{_MANIFEST}"
    if name == "write":
        write_rows(store, rows, first)
    elif name == "change":
        write_rows(store, rows, second, changed=_CHANGED)
    elif name == "read":
        read_rows(store, first)
    else:
        compare_rows(store, first, second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000, help="files of the folder; 0 for none")
    parser.add_argument("--rows", type=int, default=2_000_000, help="files of the manifest; 0 for none")
    parser.add_argument("--step", default="", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, default=Path(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(options.step, options.rows, options.work)
        return
    print("| What | CPU s | CPU s of the server | Peak memory, MB |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        lock = StateLock(work / "state", "benchmark")
        with embedded_servers(work / "state", lock, ServerOptions(mlflow=False)) as running:
            environment = running.addresses.environment(running.credentials)
            ObjectStore.from_env(environment).ensure_bucket()
            if options.files:
                (work / "folder").mkdir()
                write_folder(work / "folder", options.files)
                for cost in measure_folder(work / "folder", work, environment):
                    print(cost, flush=True)
            for cost in measure_rows(options.rows, work, environment) if options.rows else ():
                print(cost, flush=True)
        lock.close()


if __name__ == "__main__":
    main()
