"""`torchrun … -m tests.beating_group HOW`: processes wait for each other, and the last one stalls."""

import os
import signal
import sys
import time

from torch import distributed

from llava_av.logs import configure_logging
from llava_av.processes.heartbeat import COLLECTIVE_LIMIT, Limits, beating
from llava_av.processes.joining import joining


def main(how: str) -> None:
    configure_logging()
    limits = Limits.from_env()
    is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    while how == "absent" and is_last:
        time.sleep(0.1)
    with joining(limits):
        distributed.init_process_group("gloo", timeout=COLLECTIVE_LIMIT)
    with beating(limits, lambda text: print(f"saved {text}", flush=True)) as heart:
        for step in range(3):
            heart.reached(f"step {step}", limits.step_s)
            distributed.barrier()
        if is_last:
            print(f"the last rank is {os.getpid()}", flush=True)
            if how == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            while how == "hanging":
                time.sleep(0.1)
        heart.reached("the end", limits.step_s)
        distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
