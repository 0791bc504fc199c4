"""Sample runs for the index page: `python -m tests.index_sample FOLDER COUNT`."""

import datetime
import sys
from pathlib import Path

from llava_av.experiments.overview import experiment_tree
from llava_av.experiments.records import ExperimentRecord
from llava_av.report.run_index.index_page import IndexedRun, IndexedTask, IndexInputs, write_index
from llava_av.runs import Accuracy

_STATEMENT = "accuracy.av.joint at least 0.90: 0.95, met by 0.05"
_MISSED = "accuracy.av.joint over parent at least 0.02: 0.01, missed by 0.01"


def accuracy(value: float) -> Accuracy:
    low, high = max(0.0, value - 0.04), min(1.0, value + 0.03)
    return Accuracy(value=value, low=low, high=high, chance=0.375, n=448, unparsed=0)


def run(number: int, **changes: object) -> IndexedRun:
    """Return an evaluated run; `changes` replace its fields."""
    fields = {
        "run": f"{number:016x}",
        "experiment": f"experiment-{number % 7}",
        "recipe": "dryrun",
        "dataset": "demo@36001bca00",
        "seed": number % 5,
        "at": datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC) + datetime.timedelta(hours=5 * number),
        "by": "ada@workstation",
        "commit": "0b33ede" * 5,
        "dirty": number % 4 == 0,
        "family": "joint",
        "accuracy": accuracy(0.3 + (number * 37 % 70) / 100),
        "without": accuracy(0.375),
        "without_ablation": "video_only",
        "met": 5 - number % 3,
        "missed": number % 3,
        "gate": "failed" if number % 3 else "passed",
        "version": f"dryrun {number + 1}",
        "process_hours": number / 10,
        "state": "evaluated",
        "report": f"reports/{number:016x}.html",
    }
    return IndexedRun.model_validate({**fields, **changes})


def record(number: int, parent: int | None, **changes: object) -> ExperimentRecord:
    fields = {
        "id": f"experiment-{number}",
        "title": f"What number {number} tries",
        "parent": None if parent is None else f"experiment-{parent}",
        "created": datetime.date(2026, 11, 1 + number),
        "hypothesis": "h",
        "rationale": "r",
        "next_steps": "n",
        "lessons": "l",
        "observed": (
            f"| `a{number}` | 2026-11-02 | 0 | `c` | `d` | {_MISSED if number % 2 else _STATEMENT} |",
        ),
    }
    return ExperimentRecord.model_validate({**fields, **changes})


def inputs(count: int = 12, **changes: object) -> IndexInputs:
    """Return the sample; `changes` replace fields of `IndexInputs`."""
    records = [record(0, None), record(1, 0), record(2, 1), record(3, 1), record(4, 0), record(5, None)]
    unfinished = {"accuracy": None, "without": None, "met": 0, "missed": 0, "gate": "", "version": "",
                  "process_hours": None, "report": "", "state": "trained"}  # fmt: skip
    runs = [run(number) for number in range(count)]
    if count > 2:
        runs[1:3] = [run(1, **unfinished), run(2, aliases=("champion",))]
    fields = {
        "bucket": "s3://llava-av",
        "runs": tuple(reversed(runs)),
        "tasks": (
            IndexedTask(
                run=f"{1:016x}", task="daily-omni", step=1100, family="joint", accuracy=accuracy(0.6)
            ),
        ),
        "experiments": experiment_tree(records, {"experiment-5": ()}),
    }
    return IndexInputs.model_validate({**fields, **changes})


if __name__ == "__main__":
    write_index(Path(sys.argv[1]) / "index.html", inputs(int(sys.argv[2])))
