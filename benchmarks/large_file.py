"""Benchmark of one large file: `.ci/minio MINIO python -m benchmarks.large_file --s5cmd PROGRAM`.

A file of `--gigabytes` of random bytes is written to a MinIO server by processes that take turns: the upload
of `data commit`, with its read for the digest and without, and s5cmd. Each object is deleted afterwards. The
table has medians over the rounds: seconds from the start of a process to its end, and its CPU seconds.

`.ci/minio` starts the server, and its variables LLAVA_AV_TEST_S3_* name it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from llava_av.storage import ObjectStore

_KEY = "large-file"
_BLOCK = 1 << 24
_UPLOAD = "from llava_av.storage import ObjectStore; ObjectStore.from_env().put_file(sys.argv[2], path)"
_DIGEST = "from llava_av.storage import file_sha256; file_sha256(path)"
_PROGRAM = "import sys; from pathlib import Path; path = Path(sys.argv[1]); {}"


def random_file(path: Path, gigabytes: float) -> Path:
    """Write a file of random bytes."""
    left = int(gigabytes * 1e9)
    with path.open("wb") as file:
        while left > 0:
            left -= file.write(os.urandom(min(_BLOCK, left)))
    return path


def measured(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command and return its seconds and its CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def store_variables() -> dict[str, str]:
    """Return the variables that name the server for llava_av and for s5cmd."""
    endpoint = os.environ["LLAVA_AV_TEST_S3_ENDPOINT_URL"]
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": os.environ["LLAVA_AV_TEST_S3_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": os.environ["LLAVA_AV_TEST_S3_SECRET_ACCESS_KEY"],
        "AWS_REGION": "us-east-1",
        "LLAVA_AV_BUCKET": "benchmark",
    }


def sides(path: Path, s5cmd: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the label and the command of each side."""
    own = [sys.executable, "-c"]
    target = [str(path), _KEY]
    yield "llava_av: upload", [*own, _PROGRAM.format(_UPLOAD), *target]
    yield "llava_av: digest, then upload", [*own, _PROGRAM.format(f"{_DIGEST}; {_UPLOAD}"), *target]
    yield "s5cmd", [s5cmd, "cp", str(path), f"s3://benchmark/{_KEY}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--s5cmd", required=True, help="path of s5cmd")
    parser.add_argument("--gigabytes", type=float, default=4.3, help="size of the file")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all sides")
    options = parser.parse_args()
    environment = {**os.environ, **store_variables()}
    store = ObjectStore.from_env(environment)
    store.ensure_bucket()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = random_file(Path(folder) / "file", options.gigabytes)
        for _ in range(options.rounds):
            for label, command in sides(path, options.s5cmd):
                found.setdefault(label, []).append(measured(command, environment))
                store.delete(_KEY)
    print("| Side | Seconds | CPU seconds |\n| --- | --- | --- |")
    for label, rounds in found.items():
        print(f"| {label} | {median(r[0] for r in rounds):.1f} | {median(r[1] for r in rounds):.1f} |")


if __name__ == "__main__":
    main()
