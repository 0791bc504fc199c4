"""Benchmark of continuous batching: `python -m benchmarks.serving`.

A server (`llava-av serve`, one thread of torch) has the dry run's model with random weights and without an
end token, so that each reply has `--tokens` tokens. The same `--requests` requests are sent one after the
other, and all at once; both sides alternate in each round, so they share the load of the machine. A third of
the requests has a video with audio, a third an image, a third only text. Each request is decoded, encoded and
answered as in production; the first round, which also starts threads and caches, does not count.

The table has the medians of tokens per second, by the clock and by the CPU time of the server and its
processes, and of the time to the first token over all requests.
"""

import argparse
import base64
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from openai import OpenAI

from llava_av.media.encode import encode_jpeg, write_clip
from llava_av.model import fresh_model
from llava_av.recipe import load_recipe

FPS, RATE_HZ, SECONDS = 8, 16_000, 4
_ADDRESS = re.compile(r"serving at (\S+)")


@dataclass(frozen=True)
class Round:
    """One side of a round."""

    tokens_per_s: float
    tokens_per_cpu_s: float
    first_token_s: list[float]


def write_model(folder: Path) -> None:
    model, processor = fresh_model(load_recipe("dryrun"), ["Which colour is shown?"])
    model.generation_config.eos_token_id = None
    for part in (model, processor):
        part.save_pretrained(folder)


def questions(folder: Path, count: int) -> list[list[dict[str, Any]]]:
    """Return the contents of the requests."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (FPS * SECONDS, 64, 64, 3), dtype=np.uint8)
    audio = generator.normal(0, 0.1, RATE_HZ * SECONDS).astype(np.float32)
    write_clip(folder / "clip.mp4", frames, FPS, audio, RATE_HZ)
    (folder / "image.jpg").write_bytes(encode_jpeg(frames[0]))
    text = {"type": "text", "text": "Which colour is shown?"}
    media = [[_part("video_url", folder / "clip.mp4")], [_part("image_url", folder / "image.jpg")], []]
    return [[*media[number % 3], text] for number in range(count)]


def _part(kind: str, path: Path) -> dict[str, Any]:
    content = base64.b64encode(path.read_bytes()).decode()
    return {"type": kind, kind: {"url": f"data:;base64,{content}"}}


@contextlib.contextmanager
def server(model: Path, log: Path, batch: int) -> Iterator[tuple[str, psutil.Process]]:
    command = ["serve", str(model), "--port=0", "--device=cpu", f"--limit=batch={batch}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "llava_av", *command],
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        while (found := _ADDRESS.search(log.read_text())) is None:
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.2)
        yield found[1], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def ask(client: OpenAI, content: list[dict[str, Any]], tokens: int) -> float:
    """Ask one question; return the time to the first text of its reply."""
    begun, first_s = time.perf_counter(), 0.0
    messages: Any = [{"role": "user", "content": content}]
    with client.chat.completions.create(
        model="model", messages=messages, max_tokens=tokens, stream=True
    ) as stream:
        for chunk in stream:
            if not first_s and chunk.choices[0].delta.content:
                first_s = time.perf_counter() - begun
    return first_s


def cpu_s(process: psutil.Process) -> float:
    each = [process, *process.children(recursive=True)]
    return sum(one.cpu_times().user + one.cpu_times().system for one in each)


def measure(
    process: psutil.Process, tokens: int, calls: Sequence[Callable[[], float]], threads: int
) -> Round:
    with ThreadPoolExecutor(threads) as pool:
        begun, before = time.perf_counter(), cpu_s(process)
        first_token_s = list(pool.map(lambda call: call(), calls))
        took, used = time.perf_counter() - begun, cpu_s(process) - before
    return Round(len(calls) * tokens / took, len(calls) * tokens / used, first_token_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sides = {"one after the other": 1, f"{options.requests} at once": options.requests}
    rounds: dict[str, list[Round]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        contents = questions(folder, options.requests)
        with server(folder / "model", folder / "log", options.requests) as (address, process):
            client = OpenAI(base_url=address, api_key="none", max_retries=0)
            calls = [lambda content=content: ask(client, content, options.tokens) for content in contents]
            for number in range(options.rounds + 1):
                for side, threads in sides.items():
                    done = measure(process, options.tokens, calls, threads)
                    if number:
                        rounds[side].append(done)
    print(f"load {os.getloadavg()[0]:.1f}")
    for side, done_rounds in rounds.items():
        first = median(one for done in done_rounds for one in done.first_token_s)
        print(
            f"{side}: {median(done.tokens_per_s for done in done_rounds):,.0f} tokens/s, "
            f"{median(done.tokens_per_cpu_s for done in done_rounds):,.0f} tokens per CPU second, "
            f"first token after {first:.2f} s"
        )
    one, many = (median(done.tokens_per_s for done in done_rounds) for done_rounds in rounds.values())
    print(f"ratio {many / one:.2f}")


if __name__ == "__main__":
    main()
