"""Fuzzer of the readers of media and conversations: `python -m tests.fuzz.run --seconds 600`.

A worker process reads each damaged file within 30 s and with at most 1 GiB more memory than at its start.
"""

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from llava_av.datasets.sources.folder import CONVERSATIONS
from tests.fuzz.mutations import Mutation, damaged, mutations
from tests.fuzz.worker import serve
from tests.media_corpus import VIDEO_AND_AUDIO
from tests.media_corpus_images import IMAGES

__all__ = ["Fuzzer", "corpus"]

DEADLINE_S = 30.0
_START_S = 120.0
_ROUND = 50


class Fuzzer:
    """Worker process that reads damaged files and is restarted after it dies or hangs."""

    def __init__(self, files: Mapping[str, bytes], folder: Path) -> None:
        self.found: dict[str, str] = {}
        """The first failure of each kind, with the file that causes it."""
        self.inputs: Counter[str] = Counter()
        self._files, self._folder = files, folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        # The first file of each kind loads libraries, which takes longer.
        for name in ("plain.png", "h264.mp4", CONVERSATIONS):
            self._read(self._written(name, self._files[name]), _START_S)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def fuzz(self, *, rounds_from: int, until: float | None = None, rounds: int | None = None) -> None:
        """Damage and read files until a time, or for a number of rounds; equal rounds have equal inputs."""
        number = rounds_from
        while (until is None or time.monotonic() < until) and (
            rounds is None or number < rounds_from + rounds
        ):
            self._round(number, until)
            number += 1

    def _round(self, number: int, until: float | None) -> None:
        @seed(number)
        @settings(
            max_examples=_ROUND,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(name=st.sampled_from(sorted(self._files)), changes=mutations())
        def one(name: str, changes: list[Mutation]) -> None:
            if until is None or time.monotonic() < until:
                self.try_one(name, damaged(self._files[name], changes))

        one()

    def try_one(self, name: str, content: bytes) -> None:
        """Read a content under a name of the corpus, and record failures."""
        self.inputs[Path(name).suffix] += 1
        path = self._written(name, content)
        for wrong in self._read(path, DEADLINE_S):
            kind = re.sub(r"0x[0-9a-f]+|[0-9.]+", "N", wrong.replace(str(path), ""))[:120]
            if kind not in self.found:
                kept = self._folder / f"found-{len(self.found)}-{name}"
                kept.write_bytes(content)
                self.found[kind] = f"{wrong} ({kept})"

    def _written(self, name: str, content: bytes) -> Path:
        folder = self._folder / "input"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        return folder / name

    def _read(self, path: Path, deadline_s: float) -> list[str]:
        self._connection.send(str(path))
        if not self._connection.poll(deadline_s):
            wrong = f"no answer within {deadline_s:g} s"
        else:
            try:
                answer: list[str] = self._connection.recv()
                return answer
            except EOFError:
                self._process.join()
                wrong = f"the process died with exit code {self._process.exitcode}"
        self.stop()
        self._start()
        return [wrong]


def corpus(folder: Path) -> dict[str, bytes]:
    """Return the contents of the media corpus and of conversations by file name."""
    for entry in (*IMAGES, *VIDEO_AND_AUDIO):
        entry.make(folder / entry.name)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A test."}]
    lines = [{"id": f"s{n}", "image": "plain.png", "conversations": turns} for n in range(4)]
    (folder / CONVERSATIONS).write_text("\n".join(map(json.dumps, lines)))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations")
    parser.add_argument("--keep", type=Path, help="folder for the files that cause failures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "corpus").mkdir()
        files = corpus(Path(work) / "corpus")
        folder = options.keep or Path(work)
        folder.mkdir(parents=True, exist_ok=True)
        fuzzer = Fuzzer(files, folder)
        fuzzer.fuzz(rounds_from=options.seed * 1_000_000, until=time.monotonic() + options.seconds)
        fuzzer.stop()
    print(f"{fuzzer.inputs.total()} inputs of {len(files)} files, {len(fuzzer.found)} kinds of failure")
    for wrong in fuzzer.found.values():
        print(wrong)
    return 1 if fuzzer.found else 0


if __name__ == "__main__":
    sys.exit(main())
