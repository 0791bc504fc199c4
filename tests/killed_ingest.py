"""`python -m tests.killed_ingest …`: an ingest whose last process is killed after it has sent two results.

With the variable KILL_PARENT, this process is killed, whatever its rank, and with it its agent of torchrun,
as if their machine were lost.
"""

import os
import signal
import sys

from llava_av.datasets.ingest_results import ResultSender
from llava_av.processes import job_main
from llava_av.workflows.ingest.job import ingest


def main() -> int:
    is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    lost = bool(os.environ.get("KILL_PARENT"))
    sent = []

    def send_and_die(sender: ResultSender) -> None:
        sender.send()
        sent.append(sender)
        if (is_last or lost) and len(sent) == 2:
            if lost:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    ResultSender.send_if_due = send_and_die  # type: ignore[method-assign]
    return job_main("tests.killed_ingest", lambda: ingest, options={"request": "the commit"})


if __name__ == "__main__":
    sys.exit(main())
