"""Detection of processes that stall a group, from heartbeats."""

import math

from llava_av.processes.heartbeat import Limits, Point, Watch
from llava_av.processes.stalls import Member

LIMITS = Limits(silence_s=10, step_s=100)
MEMBERS = [Member(rank=rank, pid=100 + rank, host=f"node-{rank}", node=str(rank)) for rank in range(3)]


def point(count: int, reached: int, limit_s: float = 30.0) -> Point:
    return Point(count=count, reached=reached, at=f"step {reached}", limit_s=limit_s)


def first_stall(*rounds: list[Point]):
    """Return the round in which a watch with rounds of 1 s finds a stall, and the stall."""
    watch = Watch(MEMBERS, LIMITS, 1.0)
    for number, points in enumerate(rounds):
        stall = watch.stalled(points)
        if stall:
            return number, stall
    return None


def test_a_count_that_does_not_change_names_its_process() -> None:
    rounds = [[point(n, n), point(min(n, 5), 5), point(n, n)] for n in range(40)]
    number, stall = first_stall(*rounds)
    assert (number, stall.silent, stall.members) == (15, True, (MEMBERS[1],))
    assert "rank 1 (pid 101 on host node-1) sent no heartbeat for 10 s, last at step 5" in stall.text


def test_the_process_behind_the_others_hangs() -> None:
    rounds = [[point(n, min(n, 8)), point(n, min(n, 8)), point(n, min(n, 7))] for n in range(60)]
    number, stall = first_stall(*rounds)
    assert (number, stall.silent, stall.members) == (37, False, (MEMBERS[2],))
    assert "rank 2 (pid 102 on host node-2) did not get beyond step 7 within 30 s and 2 others" in stall.text


def test_all_are_named_if_none_is_behind() -> None:
    number, stall = first_stall(*([point(n, min(n, 4))] * 3 for n in range(60)))
    assert (number, stall.members) == (34, tuple(MEMBERS))


def test_the_limit_of_the_point_counts() -> None:
    assert first_stall(*([point(n, 1, limit_s=math.inf)] * 3 for n in range(1000))) is None
    assert first_stall(*([point(n, n // 29, limit_s=30.0)] * 3 for n in range(1000))) is None
