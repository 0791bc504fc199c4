"""Heartbeat of each process of a group, from which the others detect a process that stopped or hangs.

A collective operation waits for its last process and cannot tell which one that is. Therefore a thread of
each process writes a count, and the point that its main thread has reached, to the group's rendezvous store,
and reads those of the others. If a count does not change, the process was stopped or lost its node; if a
point does not change, the main thread hangs. Time is counted in rounds of the reader's own thread, so that a
process that was itself stopped does not blame the others.
"""

import contextlib
import json
import logging
import math
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch import distributed

from llava_av.errors import UserError
from llava_av.processes.stalls import Member, end_process, group_store, this_process
from llava_av.processes.variables import seconds_variable

__all__ = [
    "COLLECTIVE_LIMIT",
    "JOIN_LIMIT_VARIABLE",
    "SILENCE_LIMIT_VARIABLE",
    "STEP_LIMIT_VARIABLE",
    "Heartbeat",
    "HeartbeatError",
    "Limits",
    "Point",
    "Watch",
    "beating",
]

_LOG = logging.getLogger(__name__)

SILENCE_LIMIT_VARIABLE = "LLAVA_AV_SILENCE_LIMIT_S"
"""Variable with the seconds after which a process without a heartbeat counts as stopped."""
STEP_LIMIT_VARIABLE = "LLAVA_AV_STEP_LIMIT_S"
"""Variable with the seconds that any step may take before it counts as hanging."""
JOIN_LIMIT_VARIABLE = "LLAVA_AV_JOIN_LIMIT_S"
"""Variable with the seconds within which all processes of a group must have started."""
COLLECTIVE_LIMIT = timedelta(days=7)
"""Limit of each collective operation: longer than every limit that the heartbeat enforces."""
_DEFAULTS = {SILENCE_LIMIT_VARIABLE: 60.0, STEP_LIMIT_VARIABLE: 600.0, JOIN_LIMIT_VARIABLE: 1800.0}
_SHORTEST_S = 1.0
# PyTorch's type stubs do not declare its stores.
_C10D: Any = distributed
_ROUNDS = 10
_LONGEST_ROUND_S = 5.0
# On a machine with too few cores a process needs seconds to write its stack.
_SHORTEST_GRACE_S = 5.0


class HeartbeatError(UserError):
    """A limit that is not a number of seconds in the allowed range."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of how long a group waits for a process, in seconds."""

    silence_s: float
    """Time without a heartbeat."""
    step_s: float
    """Minimum limit of a step; a run with longer steps gets a higher one."""
    join_s: float = _DEFAULTS[JOIN_LIMIT_VARIABLE]
    """Time until all processes of the group have started."""

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> "Limits":
        """Return the limits that the environment sets, or the defaults.

        Raises:
            HeartbeatError: A variable is not a number of seconds from 1 to 604800.
        """
        found = os.environ if environment is None else environment
        silence_s, step_s, join_s = (
            seconds_variable(found, name, default, least=_SHORTEST_S, error=HeartbeatError)
            for name, default in _DEFAULTS.items()
        )
        return cls(silence_s=silence_s, step_s=step_s, join_s=join_s)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Content of a heartbeat."""

    count: int
    """Number of heartbeats."""
    reached: int
    """Number of the point that the main thread has reached; all processes pass the same points."""
    at: str
    """Name of the point."""
    limit_s: float
    """Maximum number of seconds until the next point."""


@dataclass(frozen=True, kw_only=True)
class _Stall:
    members: tuple[Member, ...]
    """Processes that the others wait for."""
    text: str
    silent: bool


class Watch:
    """Detection of a stalled group from its heartbeats, which are read in rounds."""

    def __init__(self, members: Sequence[Member], limits: Limits, round_s: float) -> None:
        self._members = members
        self._limits = limits
        self._round_s = round_s
        self._points: list[Point | None] = [None] * len(members)
        self._silent = [0] * len(members)
        self._standing = [0] * len(members)

    def stalled(self, points: Sequence[Point]) -> _Stall | None:
        """Return the processes that stall the group; None if there are none.

        Args:
            points: Last heartbeat of each process.
        """
        for index, (before, now) in enumerate(zip(self._points, points, strict=True)):
            same_count = before is not None and before.count == now.count
            same_point = before is not None and before.reached == now.reached
            self._silent[index] = self._silent[index] + 1 if same_count else 0
            self._standing[index] = self._standing[index] + 1 if same_point else 0
        self._points = list(points)
        return self._silence(points) or self._standstill(points)

    def _silence(self, points: Sequence[Point]) -> _Stall | None:
        limit_s = self._limits.silence_s
        stopped = [index for index, rounds in enumerate(self._silent) if rounds * self._round_s >= limit_s]
        if not stopped:
            return None
        text = (
            f"{self._names(stopped)} sent no heartbeat for {limit_s:g} s, last at {points[stopped[0]].at}: "
            "it is stopped, swapped out or disconnected from the network; check the process and its node, "
            f"and run again ({SILENCE_LIMIT_VARIABLE} sets the limit)"
        )
        return _Stall(members=tuple(self._members[index] for index in stopped), text=text, silent=True)

    def _standstill(self, points: Sequence[Point]) -> _Stall | None:
        least = min(point.reached for point in points)
        last = [index for index, point in enumerate(points) if point.reached == least]
        standing_s = min(self._standing[index] for index in last) * self._round_s
        at = points[last[0]]
        if standing_s < at.limit_s:
            return None
        others = len(points) - len(last)
        waiting = "" if not others else " and 1 other waits" if others == 1 else f" and {others} others wait"
        text = (
            f"{self._names(last)} did not get beyond {at.at} within {at.limit_s:g} s{waiting}: see the "
            f"stacks in the log; run again, or raise {STEP_LIMIT_VARIABLE} if a step may take that long"
        )
        return _Stall(members=tuple(self._members[index] for index in last), text=text, silent=False)

    def _names(self, indices: Sequence[int]) -> str:
        return ", ".join(str(self._members[index]) for index in indices)


class Heartbeat:
    """Heartbeat of this process; a single process watches itself."""

    def __init__(self, limits: Limits, save_stacks: Callable[[str], None] | None = None) -> None:
        self.limits = limits
        self._save_stacks = save_stacks
        self._point = Point(count=0, reached=0, at="its start", limit_s=math.inf)
        self._stop = threading.Event()
        self._round_s = min(_LONGEST_ROUND_S, limits.silence_s / _ROUNDS)

    def reached(self, at: str, limit_s: float) -> None:
        """Record a point that all processes pass in the same order.

        Args:
            at: Name of the point, for error messages.
            limit_s: Maximum number of seconds until the next point.
        """
        self._point = Point(count=0, reached=self._point.reached + 1, at=at, limit_s=limit_s)

    def start(self) -> None:
        """Start to send heartbeats and to watch the others; all processes call this together."""
        every: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(every, (uuid.uuid4().hex, asdict(this_process())))
        members = [Member(**fields) for _, fields in every]
        # A restarted group may use the same store.
        store = _C10D.PrefixStore(f"heartbeat/{every[0][0]}", self._store(len(members)))
        store.set(str(distributed.get_rank()), self._encoded(0))
        distributed.barrier()
        threading.Thread(target=self._beat, args=(store, members), name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Stop the heartbeat."""
        self._stop.set()

    def _store(self, members: int) -> Any:
        return _C10D.HashStore() if members == 1 else group_store(self.limits.silence_s)

    def _grace_s(self) -> float:
        return max(_SHORTEST_GRACE_S, 2 * self._round_s)

    def _encoded(self, count: int) -> str:
        return json.dumps(asdict(self._point) | {"count": count})

    def _beat(self, store: Any, members: Sequence[Member]) -> None:
        keys = [str(member.rank) for member in members]
        mine = keys[distributed.get_rank()]
        watch = Watch(members, self.limits, self._round_s)
        count = 0
        while not self._stop.wait(self._round_s):
            count += 1
            try:
                store.set(mine, self._encoded(count))
                points = [Point(**json.loads(value)) for value in store.multi_get(keys)]
            except RuntimeError as error:
                # The first node may have ended before this thread notices that the block has ended.
                if self._stop.is_set():
                    return
                end_process(
                    f"the store of the group's first node does not answer ({error}): check that node", (), 0.0
                )
            stall = watch.stalled(points)
            if stall is not None and not self._stop.is_set():
                save = self._save_stacks if this_process() in stall.members else None
                end_process(stall.text, stall.members if stall.silent else (), self._grace_s(), save)


@contextlib.contextmanager
def beating(limits: Limits, save_stacks: Callable[[str], None] | None = None) -> Iterator[Heartbeat]:
    """Send heartbeats during a block, after the group was formed; end this process if the group stalls.

    Args:
        limits: Time limits of the group.
        save_stacks: Called with the stacks of this process if the others wait for it.
    """
    heartbeat = Heartbeat(limits, save_stacks)
    if distributed.is_initialized():
        heartbeat.start()
    try:
        yield heartbeat
    finally:
        heartbeat.stop()
