"""`torchrun … -m tests.beating_group HOW`: two processes wait for each other, and rank 1 stalls."""

import os
import signal
import sys
import time

from torch import distributed

from llava_av.logs import configure_logging
from llava_av.processes.heartbeat import COLLECTIVE_LIMIT, Limits, beating


def main(how: str) -> None:
    configure_logging()
    distributed.init_process_group("gloo", timeout=COLLECTIVE_LIMIT)
    limits = Limits.from_env()
    with beating(limits) as heart:
        for step in range(3):
            heart.reached(f"step {step}", limits.step_s)
            distributed.barrier()
        if distributed.get_rank() == 1:
            print(f"rank 1 is {os.getpid()}", flush=True)
            if how == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            while how == "hanging":
                time.sleep(0.1)
        heart.reached("the end", limits.step_s)
        distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
