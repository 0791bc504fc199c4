"""Benchmark of the start of a training: `python -m benchmarks.streaming`.

A commit with `--samples` generated samples about half as many clips, whose media do not exist, is written
to an embedded S3 server. A process of its own then does what a training does before its first batch, apart
from the model: it writes the tables of the samples, computes the order, and reads the samples of the first
steps and the files that they name. A second process finds the tables on the disk, as a second rank or a
restart does. A third one goes through `--steps` steps.

The table has the CPU seconds and the wall time of the process, the CPU seconds of the server, and the memory
of the process in MB: without mapped files after some steps and at the end, and the peak with mapped files,
which all processes of a node share.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from llava_av.datasets.commit_files import CommitFiles
from llava_av.datasets.commits import Commit
from llava_av.datasets.manifest import Manifest, SplitEntry, blob_key
from llava_av.datasets.ranges import FileRow, SampleLine, cut_files, cut_samples
from llava_av.datasets.sample_table import sample_table
from llava_av.recipe import TrainingRecipe
from llava_av.services.servers import ServerOptions, embedded_servers
from llava_av.services.state import StateLock
from llava_av.storage import ObjectStore, map_parallel
from llava_av.training.order import SampleOrder

_ABOUT_A_CLIP = 2
_BATCH = 128
_STEPS_AHEAD = 5
_AT_ONCE = 256


def write_commit(store: ObjectStore, samples: int) -> Commit:
    """Write the ranges of a commit whose media do not exist."""
    clips = range(samples // _ABOUT_A_CLIP)
    files = cut_files(FileRow(_path(clip), f"{clip:064x}", 1_000_000) for clip in clips)
    lines = cut_samples(map(_line, range(samples)))
    file_ranges = tuple(_put(store, files))
    sample_ranges = tuple(_put(store, lines))
    split = SplitEntry(samples=samples, ranges=sample_ranges)
    return Commit(
        name="large", id="0" * 64, parent=None, manifest=Manifest(files=file_ranges, splits={"train": split})
    )


def _put(store: ObjectStore, ranges: Iterator[tuple]) -> Iterator:
    part = []
    for one in ranges:
        part.append(one)
        if len(part) == _AT_ONCE:
            map_parallel(lambda one: store.put_bytes(blob_key(one[0].sha256), one[1]), part)
            yield from (found for found, _ in part)
            part = []
    map_parallel(lambda one: store.put_bytes(blob_key(one[0].sha256), one[1]), part)
    yield from (found for found, _ in part)


def _path(clip: int) -> str:
    return f"clips/{clip // 1000:05}/{clip:08}.mp4"


def _line(number: int) -> SampleLine:
    turns = [
        {"from": "human", "value": f"<video>\nWhich of the objects moves first in scene {number}?"},
        {"from": "gpt", "value": "The red ball on the left side."},
    ]
    row = {
        "conversations": turns,
        "id": f"{number:09}",
        "kind": f"kind_{number % 7}",
        "video": [_path(number // _ABOUT_A_CLIP)],
    }
    text = json.dumps(row, separators=(",", ":"), ensure_ascii=False)
    return SampleLine(row["id"], row["kind"], text.encode())


def start(manifest: Path, folder: Path, steps: int) -> None:
    """Do what a process does up to its first batch, and print what it cost as JSON."""
    store = ObjectStore.from_env()
    commit = Commit(
        name="large",
        id="0" * 64,
        parent=None,
        manifest=Manifest.model_validate_json(manifest.read_bytes()),
    )
    before, started = time.process_time(), time.monotonic()
    samples = sample_table(store, commit, "train", folder / "samples")
    files = CommitFiles(store, commit, folder / "files")
    recipe = TrainingRecipe.model_validate({"steps": 10**6, "global_batch_size": _BATCH, "num_processes": 1})
    order = SampleOrder(samples, seed=0, recipe=recipe)
    tables_s, early = time.monotonic() - started, _own_mb()
    for step in range(steps):
        order.next_uses(step)
        for index in order.step(step):
            for name in samples[index].media:
                assert files.find(name) is not None
        if step == _STEPS_AHEAD:
            early = _own_mb()
    cost = {
        "tables_s": tables_s,
        "wall_s": time.monotonic() - started,
        "cpu_s": time.process_time() - before,
        "early_mb": early,
        "own_mb": _own_mb(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(cost))


def _own_mb() -> float:
    found = psutil.Process().memory_info()
    return (found.rss - found.shared) / 2**20


def _measured(what: str, arguments: list[str]) -> str:
    before = _server_cpu_s()
    command = [sys.executable, "-m", "benchmarks.streaming", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cost = json.loads(output)
    server_s = _server_cpu_s() - before
    times = f"{cost['cpu_s']:.1f} | {cost['tables_s']:.1f} | {cost['wall_s']:.1f} | {server_s:.1f}"
    return f"| {what} | {times} | {cost['early_mb']:.0f} | {cost['own_mb']:.0f} | {cost['peak_mb']:.0f} |"


def _server_cpu_s() -> float:
    children = psutil.Process().children(recursive=True)
    return sum(sum(one.cpu_times()[:2]) for one in children)


def main() -> None:
    """Write a commit, measure the starts, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=2_000_000)
    parser.add_argument("--steps", type=int, default=800, help="steps of 128 samples of the last process")
    parser.add_argument("--start", nargs=3, metavar=("MANIFEST", "FOLDER", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        start(Path(options.start[0]), Path(options.start[1]), int(options.start[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lock = StateLock(folder / "state", "benchmark")
        with embedded_servers(folder / "state", lock, ServerOptions(mlflow=False)) as running:
            os.environ |= {
                **running.addresses.environment(running.credentials),
                "LLAVA_AV_BUCKET": "benchmark",
            }
            store = ObjectStore.from_env()
            store.ensure_bucket()
            commit = write_commit(store, options.samples)
            manifest = folder / "manifest.json"
            assert isinstance(commit.manifest, Manifest)
            manifest.write_text(commit.manifest.model_dump_json())
            arguments = ["--start", str(manifest), str(folder / "cache")]
            print("| process | CPU s | tables s | first batch s | server CPU s | MB early | MB | MB peak |")
            print("| --- | --- | --- | --- | --- | --- | --- | --- |")
            for what, steps in (
                ("first of the node", _STEPS_AHEAD),
                ("second", _STEPS_AHEAD),
                (f"{options.steps} steps", options.steps),
            ):
                print(_measured(what, [*arguments, str(steps)]), flush=True)
        lock.close()


if __name__ == "__main__":
    main()
