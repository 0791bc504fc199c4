"""`torchrun … -m llava_av.training --run RUN --work DIR`: one process of a training job."""

import argparse
import sys
from pathlib import Path

from llava_av.errors import explain
from llava_av.processes import watch_lifeline


def main() -> int:
    """Trains the run that the arguments name; gives the exit code."""
    watch_lifeline()
    parser = argparse.ArgumentParser(prog="llava_av.training")
    parser.add_argument("--run", required=True, help="run key; runs/RUN/request.json says what to do")
    parser.add_argument(
        "--work", required=True, type=Path, help="local folder for data and checkpoints on their way"
    )
    arguments = parser.parse_args()
    from llava_av.training.job import train

    try:
        train(arguments.run, arguments.work)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
