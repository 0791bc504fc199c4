"""Benchmark on one GPU of 80 GB, in at most 8 minutes: `python -m benchmarks.gpu --output DIR`.

It runs from a checkout and needs PyTorch 2.11 or newer, transformers 5.17 or newer, peft and pytest, with
what these depend on, and Pillow. Three parts follow each other, each in a process of its own with its share
of the time; if one fails, the others go on:

- the tests marked `gpu`;
- a model of the shape of LLaVA-OneVision-7B with wav2vec2-large and random weights; its connectors and the
  adapters of its language model are trained, on packed rows of 8,192 tokens with frames and audio;
- the 0.5B model with all parts trained.

Each model is trained by llava-av, with its loader and with batches in memory, and by the transformers
Trainer: with its defaults, with samples grouped by length, and with samples flattened into one row. All take
turns on the same samples. If memory runs out, activations are recomputed and rows become shorter.

The folder gets `results.md` with the printed tables, `results.json`, and the output of each part.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["main", "table_of"]

_ROOT = Path(__file__).parents[1]
_TESTS = "tests/gpu"
_MFU_GOAL, _SPEED_GOAL = 0.45, 1.3
_RESERVED_S = 10.0
_LEAST_S = 30.0
"""Time that a part needs at least, to be tried again."""
_OUT_OF_MEMORY = "out of memory"
_ATTENTION = "sdpa"
"""Attention that needs no compiler, if the one for packed rows fails."""


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """A model with its share of the time and the sizes that are tried in turn."""

    model: str
    share: float
    sizes: Sequence[tuple[int, bool]]
    """Tokens of a row, and whether activations are recomputed."""
    steps: int
    """Timed steps of each run."""


_ROWS = (8_192, 4_096, 2_048)
_TESTS_SHARE = 0.18
_PARTS = (
    ModelPart(model="7B, adapters", share=0.48, steps=1, sizes=[(row, True) for row in _ROWS]),
    ModelPart(
        model="0.5B, all parts",
        share=0.34,
        steps=3,
        sizes=[(_ROWS[0], False), *((row, True) for row in _ROWS)],
    ),
)
_SMALL_ROW = 256


class Budget:
    """Time that is left, divided by the shares of the parts that have not started.

    Args:
        seconds: Time of all parts.
        shares: Shares of the parts, in their order.
    """

    def __init__(self, seconds: float, shares: Sequence[float]) -> None:
        self._deadline = time.monotonic() + seconds - _RESERVED_S
        self._shares = list(shares)

    def next(self) -> float:
        """Return the time of the next part: what earlier parts did not use goes to the later ones."""
        share = self._shares[0] / sum(self._shares)
        self._shares.pop(0)
        return max(1.0, share * (self._deadline - time.monotonic()))


def _run(command: Sequence[str], log: Path, seconds: float, *, small: bool) -> str | None:
    """Run a command, and return why it failed; None if it did not."""
    # One GPU; small models run in one thread of the CPU.
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    devices = (
        {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if small else {"CUDA_VISIBLE_DEVICES": first}
    )
    with log.open("w", encoding="utf-8") as output:
        try:
            subprocess.run(
                [sys.executable, "-m", *command],
                cwd=_ROOT,
                env={**os.environ, **devices},
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=True,
            )
        except subprocess.TimeoutExpired:
            return f"not finished after {seconds:.0f} s"
        except subprocess.CalledProcessError as error:
            return f"exit status {error.returncode}, see {log.name}"
    return None


def run_tests(folder: Path, seconds: float, *, small: bool) -> dict[str, Any]:
    """Run the tests marked `gpu`, and return how many passed, failed and were skipped."""
    started, report = time.monotonic(), folder / "tests.xml"
    failure = _run(["pytest", _TESTS, f"--junitxml={report}"], folder / "tests.log", seconds, small=small)
    found: dict[str, Any] = {"error": failure, "seconds": round(time.monotonic() - started, 1)}
    if report.is_file():
        suite = next(ElementTree.parse(report).iter("testsuite")).attrib
        failed, skipped = int(suite["failures"]) + int(suite["errors"]), int(suite["skipped"])
        passed = int(suite["tests"]) - failed - skipped
        found |= {"passed": passed, "failed": failed, "skipped": skipped}
    return found


def run_model(part: ModelPart, folder: Path, seconds: float, *, small: bool) -> dict[str, Any]:
    """Measure a model with the largest rows for which memory suffices."""
    deadline = time.monotonic() + seconds
    sizes = [(_SMALL_ROW, part.sizes[0][1])] if small else list(part.sizes)
    found: dict[str, Any] = {}
    notes: list[str] = []
    attention: list[str] = []
    while sizes and (not notes or deadline - time.monotonic() > _LEAST_S):
        pack_length, recomputes = sizes[0]
        options = [f"--pack-length={pack_length}", *(["--checkpointing"] if recomputes else []), *attention]
        found = _run_once(part, options, folder, deadline - time.monotonic(), small=small)
        own = found["ways"][0] if "ways" in found else {"runs": [None], "notes": []}
        if found["error"] == _OUT_OF_MEMORY:
            how = "with" if recomputes else "without"
            notes.append(f"rows of {pack_length} tokens {how} recomputed activations: {_OUT_OF_MEMORY}")
            sizes.pop(0)
        elif not own["runs"] and not attention:
            notes.append(f"{found['attention']} failed, then {_ATTENTION}: {'; '.join(own['notes'])}")
            attention = [f"--attention={_ATTENTION}"]
        else:
            break
    return found | {"notes": notes}


def _run_once(
    part: ModelPart, options: Sequence[str], folder: Path, seconds: float, *, small: bool
) -> dict[str, Any]:
    """Measure a model in a process of its own, which ends before its time limit."""
    slug = part.model.partition(",")[0].lower()
    file = folder / f"{slug}.json"
    file.unlink(missing_ok=True)
    command = ["benchmarks.gpu_part", f"--model={part.model}", f"--file={file}", *options]
    command += [
        f"--seconds={0.9 * seconds}",
        f"--steps={1 if small else part.steps}",
        *(["--small"] if small else []),
    ]
    failure = _run(command, folder / f"{slug}.log", seconds, small=small)
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {"error": failure} | found


def table_of(part: Mapping[str, Any]) -> list[str]:
    """Return a Markdown table with the median of each way's runs."""
    lines = [
        "| Way | Useful tokens/s | MFU | MFU with input gradients | Waiting for data | Padding | Peak memory "
        "| llava-av is faster by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ways = part.get("ways", ())
    own = _rate(ways[0]) if ways and ways[0]["runs"] else None
    for way in ways:
        if way["runs"]:
            ratio = f"{own / _rate(way):.2f}" if own and way is not ways[0] else ""
            lines.append(f"| {way['way']} | {_rates(way)} | {_row(way['runs'], part)} | {ratio} |")
        lines += [f"| {way['way']} | {note} | | | | | | |" for note in way["notes"]]
    return lines


def _rate(way: Mapping[str, Any]) -> float:
    return median(run["tokens"] / run["seconds"] for run in way["runs"])


def _rates(way: Mapping[str, Any]) -> str:
    each = [run["tokens"] / run["seconds"] for run in way["runs"]]
    spread = f" ({min(each):,.0f} to {max(each):,.0f})" if len(each) > 1 else ""
    return f"{median(each):,.0f}{spread}"


def _row(runs: Sequence[Mapping[str, Any]], part: Mapping[str, Any]) -> str:
    peak, memory = part["peak_flops"], runs[-1]["peak_gib"]
    cells = [f"{mfu(runs, peak, name):.1%}" if peak else "–" for name in ("flops", "needed_flops")]
    cells.append(f"{median(run['wait_s'] / run['seconds'] for run in runs):.1%}")
    cells.append(f"{1 - sum(run['tokens'] for run in runs) / sum(run['positions'] for run in runs):.1%}")
    cells.append("–" if memory is None else f"{max(run['peak_gib'] for run in runs):.1f} GiB")
    return " | ".join(cells)


def mfu(runs: Sequence[Mapping[str, Any]], peak: float, flops: str) -> float:
    """Return the median model FLOPs utilisation."""
    return median(run[flops] / run["seconds"] / peak for run in runs)


def goals_of(part: Mapping[str, Any]) -> str:
    """Return which goals a model reached, in one line."""
    ways = {way["way"]: way for way in part.get("ways", ()) if way["runs"]}
    if not part.get("peak_flops") or "llava-av" not in ways or "Trainer" not in ways:
        return "not measured: this needs a GPU whose peak is known, and a run of both sides"
    reached = mfu(ways["llava-av"]["runs"], part["peak_flops"], "needed_flops")
    ratio = _rate(ways["llava-av"]) / _rate(ways["Trainer"])
    verdicts = [
        f"{reached:.1%} MFU ({'reached' if reached >= _MFU_GOAL else 'missed'})",
        f"{ratio:.2f} times the Trainer ({'reached' if ratio >= _SPEED_GOAL else 'missed'})",
    ]
    return ", ".join(verdicts)


def report_of(results: Mapping[str, Any]) -> str:
    """Return the whole report as Markdown."""
    tests = results["tests"]
    counts = ", ".join(f"{tests[name]} {name}" for name in ("passed", "failed", "skipped") if name in tests)
    lines = [f"Tests marked `gpu`: {counts or 'no result'} in {tests['seconds']} s"]
    lines[0] += f" ({tests['error']})" if tests["error"] else ""
    for name, part in results["models"].items():
        known = [f"{part[key]:,} {text}" for key, text in _FACTS.items() if key in part]
        known += [f"attention: {part['attention']}"] if "attention" in part else []
        lines += ["", f"**{name}**: {part.get('device', 'no result')}; {'; '.join(known)}", ""]
        lines += table_of(part)
        notes = [*part.get("notes", ()), *([part["error"]] if part.get("error") else [])]
        lines += ["", *(f"- {note}" for note in notes), *([""] if notes else [])]
        goals = f"at least {_MFU_GOAL:.0%} MFU with input gradients and {_SPEED_GOAL} times the Trainer"
        lines.append(f"Goals, {goals}: {goals_of(part)}.")
    return "\n".join([*lines, ""])


_FACTS = {"parameters": "parameters", "pack_length": "tokens per row"}


def main(argv: Sequence[str] | None = None) -> None:
    """Run all parts, print the report, and write it to a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="time of all parts together")
    parser.add_argument("--small", action="store_true", help="tiny models on the CPU, to check the program")
    arguments = parser.parse_args(argv)
    folder, small = arguments.output.resolve(), arguments.small
    folder.mkdir(parents=True, exist_ok=True)
    budget = Budget(60 * arguments.minutes, [_TESTS_SHARE, *(part.share for part in _PARTS)])
    results: dict[str, Any] = {"tests": run_tests(folder, budget.next(), small=small), "models": {}}
    for part in _PARTS:
        results["models"][part.model] = run_model(part, folder, budget.next(), small=small)
    (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    report = report_of(results)
    (folder / "results.md").write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
