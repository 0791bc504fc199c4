"""Memory for frames: no depth of calls allocates it again for each call."""

import resource
import threading

from llava_av.processes import call_with_frame_memory

CALLS = 200


def most_faults() -> int:
    """Return the largest number of page faults of many short calls, among all depths of the caller."""
    return max(map(faults, range(200)))


def faults(depth: int) -> int:
    if depth:
        return faults(depth - 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(CALLS):
        short()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def short(one: int = 1) -> tuple[int, ...]:
    """Take a larger frame than `faults`, so that it does not fit into a block at some depth."""
    return (one, one, one, one, one, one, one, one, one, one, one, one, one, one, one, one, one, one, one)


def in_thread(found: list[int]) -> None:
    # Without this module, CPython allocates memory for frames with each call at some depths.
    found.append(most_faults())
    found.append(call_with_frame_memory(most_faults))


def test_frames_have_memory_at_all_depths() -> None:
    found: list[int] = []
    thread = threading.Thread(target=in_thread, args=(found,))
    thread.start()
    thread.join()
    plain, kept = found
    assert plain >= CALLS
    assert kept < CALLS / 2
