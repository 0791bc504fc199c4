"""Benchmark of dataset versions: `python -m benchmarks.data_versions`.

The folder has `--files` images of random pixels (1 to 20 KB) with one sample each. An embedded S3 server
stores the commits. Each command is a process of its own; the table has its wall time, its CPU seconds, those
of the server during it, and the peak of its memory. Wall time depends on other work on the machine.

`--dvc PROGRAM` measures DVC with the same folder and server, in turn with ours. Install it in an environment
of its own, `python -m venv DIR && DIR/bin/pip install 'dvc[s3]>=3,<4'`, and give DIR/bin/dvc. DVC checks no
file.

`--clips` adds a folder with that many short clips.

`--samples` adds a folder with that many samples about 100 images.

`--tiny` adds a folder with that many images of about 1 KB; its commit reads only their headers.

`--rows` adds the manifest of a dataset with that many files whose media do not exist: its ranges are written,
read again, and compared with those of a dataset in which 10 files differ.
"""

import argparse
import compileall
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

import llava_av
from benchmarks.command_cost import Cost, Dvc, measured
from llava_av.datasets.manifest import FileRange, Manifest, blob_key, canonical_json
from llava_av.datasets.ranges import FileRow, cut_files
from llava_av.datasets.reading import open_content
from llava_av.media.encode import write_clip
from llava_av.services.servers import ServerOptions, embedded_servers
from llava_av.services.state import StateLock
from llava_av.storage import ObjectStore

_CHANGED, _ROUNDS = 10, 5
_IMAGES = 100
_SIDES, _TINY_SIDES = (32, 140), (16, 20)
_MANIFEST = "manifest.json"


def write_folder(folder: Path, files: int, sides: tuple[int, int] = _SIDES) -> None:
    """Write images of random pixels with sides in a range, and their conversations."""
    random = np.random.default_rng(0)
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "Noise."}]
    with (folder / "conversations.jsonl").open("w") as lines:
        for number in range(files):
            path = f"images/{number // 1000:04}/{number:07}.png"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            _write_image(folder / path, random, sides)
            lines.write(json.dumps({"id": f"{number:07}", "image": path, "conversations": turns}) + "\n")


def write_samples(folder: Path, samples: int) -> None:
    """Write images, and conversations with many samples about each."""
    write_folder(folder, _IMAGES)
    file = folder / "conversations.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    with file.open("w") as output:
        for number in range(samples):
            output.write(json.dumps(lines[number % _IMAGES] | {"id": f"{number:09}"}) + "\n")


def change_folder(folder: Path, seed: int) -> None:
    """Replace the first images of the folder."""
    random = np.random.default_rng(seed)
    for path in sorted(folder.rglob("*.png"))[:_CHANGED]:
        _write_image(path, random, _SIDES)


def write_clips(folder: Path, clips: int) -> None:
    """Write clips of one second of random pixels, and their conversations."""
    random = np.random.default_rng(0)
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "Noise."}]
    with (folder / "conversations.jsonl").open("w") as lines:
        for number in range(clips):
            frames = random.integers(0, 256, (10, 48, 64, 3), np.uint8)
            write_clip(folder / f"{number:05}.mp4", frames, 10.0, None, 16_000)
            sample = {"id": f"{number:05}", "video": f"{number:05}.mp4", "conversations": turns}
            lines.write(json.dumps(sample) + "\n")


def write_tiny_files(folder: Path, files: int) -> None:
    """Write images of about 1 KB, and their conversations."""
    write_folder(folder, files, _TINY_SIDES)


def _write_image(path: Path, random: np.random.Generator, sides: tuple[int, int]) -> None:
    side = int(random.integers(*sides))
    Image.fromarray(random.integers(0, 256, (side, side), np.uint8)).save(path, compress_level=0)


def data_command(work: Path, environment: Mapping[str, str]) -> Callable[..., Cost]:
    """Return the function that measures a command of `llava-av data`."""

    def data(what: str, *arguments: str | Path) -> Cost:
        own = [*map(str, arguments), "--output-dir", str(work / "output")]
        return measured(what, [sys.executable, "-m", "llava_av", "data", *own], environment=environment)

    return data


def measure_folder(
    folder: Path, work: Path, environment: Mapping[str, str], dvc: Dvc | None
) -> Iterator[Cost]:
    """Measure commands on a folder, those of DVC after ours."""
    data = data_command(work, environment)
    # In a bucket and with a cache of its own, so that neither commit finds what the other has sent.
    ObjectStore.from_env(environment).in_bucket("headers").ensure_bucket()
    by_headers = data_command(work / "headers", {**environment, "LLAVA_AV_BUCKET": "headers"})
    yield by_headers("first commit, headers only", "commit", folder, "--name", "files", "--check", "headers")
    if dvc:
        yield dvc.add("first add and push")
    yield data("first commit", "commit", folder, "--name", "files")
    yield data("status, nothing changed", "status", folder, "--name", "files")
    if dvc:
        yield dvc("status, nothing changed", ["status"])
    yield data("commit, nothing changed", "commit", folder, "--name", "files")
    for number in range(1, _ROUNDS + 1):
        for changed in (folder, *([dvc.folder] if dvc else [])):
            change_folder(changed, seed=number)
        what = f"after {_CHANGED} files changed, change {number}"
        yield data(f"commit {what}", "commit", folder, "--name", "files")
        if dvc:
            yield dvc.add(f"add and push {what}")
    yield data("checkout", "checkout", "files", work / "copy")
    if dvc:
        yield dvc.pull("pull")
    yield data("log", "log", "files")
    yield data("gc, a list only", "gc")


def measure_clips(
    folder: Path, work: Path, environment: Mapping[str, str], dvc: Dvc | None
) -> Iterator[Cost]:
    """Measure commits of a folder with clips."""
    data = data_command(work, environment)
    clips = len(list(folder.glob("*.mp4")))
    for what in (f"first commit of {clips} clips", f"commit of {clips} unchanged clips"):
        yield data(what, "commit", folder, "--name", "clips")
        if dvc:
            yield dvc.add(what.replace("commit", "add and push"))


def measure_tiny_files(
    folder: Path, work: Path, environment: Mapping[str, str], dvc: Dvc | None
) -> Iterator[Cost]:
    """Measure the first commit of a folder with tiny images."""
    data = data_command(work, environment)
    yield data("first commit of tiny images", "commit", folder, "--name", "tiny", "--check", "headers")


def measure_samples(
    folder: Path, work: Path, environment: Mapping[str, str], dvc: Dvc | None
) -> Iterator[Cost]:
    """Measure commits of a folder with many samples."""
    data, file = data_command(work, environment), folder / "conversations.jsonl"
    yield data("first commit of the samples", "commit", folder, "--name", "samples")
    # Line by line: the memory of this process is part of the peak that is measured for a command.
    changed = file.with_name("changed")
    with file.open() as before, changed.open("w") as after:
        for number, line in enumerate(before):
            after.write(line.replace("Noise", "Grain") if number < _CHANGED else line)
    changed.replace(file)
    yield data(f"commit after {_CHANGED} samples changed", "commit", folder, "--name", "samples")


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
        command = [sys.executable, "-m", "benchmarks.data_versions", *own]
        return measured(what, command, environment=environment)

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


def measure_all(options: argparse.Namespace, work: Path, environment: Mapping[str, str]) -> Iterator[Cost]:
    """Measure what the options name."""
    for count, write, measure, name in (
        (options.files, write_folder, measure_folder, "files"),
        (options.clips, write_clips, measure_clips, "clips"),
        (options.samples, write_samples, measure_samples, "samples"),
        (options.tiny, write_tiny_files, measure_tiny_files, "tiny"),
    ):
        if count:
            own = work / name
            (own / "folder").mkdir(parents=True)
            write(own / "folder", count)
            dvc = Dvc(options.dvc.resolve(), own / "folder", own, environment) if options.dvc else None
            yield from measure(own / "folder", own, environment, dvc)
    if options.rows:
        yield from measure_rows(options.rows, work, environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000, help="files of the folder; 0 for none")
    parser.add_argument("--clips", type=int, default=2000, help="clips of the second folder; 0 for none")
    parser.add_argument("--samples", type=int, default=0, help="samples of the third folder; 0 for none")
    parser.add_argument("--tiny", type=int, default=0, help="images of the fourth folder; 0 for none")
    parser.add_argument("--rows", type=int, default=2_000_000, help="files of the manifest; 0 for none")
    parser.add_argument("--dvc", type=Path, default=None, help="program of DVC 3; ours alone without")
    parser.add_argument("--step", default="", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, default=Path(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(options.step, options.rows, options.work)
        return
    # As an installation does, so that no command compiles.
    compileall.compile_dir(Path(llava_av.__file__).parent, quiet=1)
    print(f"| What | Wall s | CPU s | CPU s of the server | Peak memory, MB |\n|{' --- |' * 5}")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        lock = StateLock(work / "state", "benchmark")
        with embedded_servers(work / "state", lock, ServerOptions(mlflow=False)) as running:
            environment = running.addresses.environment(running.credentials)
            ObjectStore.from_env(environment).ensure_bucket()
            for cost in measure_all(options, work, environment):
                print(cost, flush=True)
        lock.close()


if __name__ == "__main__":
    main()
