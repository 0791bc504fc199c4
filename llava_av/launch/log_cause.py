"""Failure cause of a job: the line of its output that explains the failure."""

import logging
import re
from collections.abc import Sequence

from llava_av.logs import parse_line

__all__ = ["failure_cause", "logged_cause"]

_RANK = r"^(?P<rank>\[rank\d+\]:\s*)?"
_USER_ERROR = re.compile(_RANK + r"error: (?P<cause>.+)$")
_EXCEPTION = re.compile(_RANK + r"(?P<cause>(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)(?:: .+)?)$")
_SIGNAL = re.compile(r"Signal \d+ \((?P<name>SIG\w+)\) received")
# torchrun's own exception only repeats that a process failed.
_NOT_A_CAUSE = ("ChildFailedError", "SignalException")
# A process that lost another one; the signal that ended the other one explains more.
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Socket closed")
_LONGEST = 300
_MEMORY_HINT = "killed by SIGKILL, probably out of memory: reduce the batch size or free memory"


def failure_cause(lines: Sequence[str], exit_code: int) -> str:
    """Return the cause of a job's failure in one line.

    The last error that the job itself logged wins; earlier ones may belong to earlier attempts. Without one
    it is the last exception of the process that failed first, since the other processes of a group only
    report that they lost it; without such an exception, the signal that ended a process.

    Args:
        lines: The last lines of the job's output.
        exit_code: Exit code of the job.
    """
    for line in reversed(lines):
        cause = logged_cause(line)
        if cause:
            return cause
    exceptions = [found for found in map(_EXCEPTION.match, lines) if found]
    exceptions = [found for found in exceptions if not any(word in found["cause"] for word in _NOT_A_CAUSE)]
    own = [found for found in exceptions if not any(word in found["cause"] for word in _LOST_PEER)]
    exceptions = own or ([] if _signals(lines) else exceptions)
    if exceptions:
        first_rank = exceptions[0]["rank"]
        return str([found for found in exceptions if found["rank"] == first_rank][-1]["cause"]).strip()
    return _signal_cause(lines, exit_code)


def logged_cause(line: str) -> str:
    """Return the text of an error that the job itself logged, as text or JSON; else an empty string."""
    parsed = parse_line(line)
    if parsed.fields:
        return parsed.message.strip() if parsed.level == logging.ERROR else ""
    found = _USER_ERROR.match(line)
    return found["cause"].strip() if found else ""


def _signals(lines: Sequence[str]) -> list[str]:
    return [found["name"] for found in map(_SIGNAL.search, lines) if found]


def _signal_cause(lines: Sequence[str], exit_code: int) -> str:
    names = _signals(lines)
    if "SIGKILL" in names or exit_code == 137:
        return f"a process was {_MEMORY_HINT}"
    if names:
        return f"a process was ended by {names[0]}"
    said = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote no output")
    return f"it ended with exit code {exit_code}: {said[:_LONGEST]}"
