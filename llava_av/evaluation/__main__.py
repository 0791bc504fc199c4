"""`python -m llava_av.evaluation --run RUN --work DIR`: an evaluation job."""

import argparse
import sys
from pathlib import Path

from llava_av.errors import explain
from llava_av.processes import watch_lifeline


def main() -> int:
    """Evaluates the run that the arguments name; gives the exit code."""
    watch_lifeline()
    parser = argparse.ArgumentParser(prog="llava_av.evaluation")
    parser.add_argument("--run", required=True, help="run key; runs/RUN/train.json names the checkpoint")
    parser.add_argument(
        "--work", required=True, type=Path, help="local folder for copies of data and checkpoint"
    )
    arguments = parser.parse_args()
    from llava_av.evaluation.runner import evaluate

    try:
        evaluate(arguments.run, arguments.work)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
