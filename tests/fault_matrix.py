"""The expected outcome of each operation under each fault of the object store, for a test and a table.

`python -m tests.fault_matrix` prints the table for docs/operations.md.
"""

from dataclasses import dataclass

__all__ = ["CELLS", "FAULTS", "OPERATIONS", "Fault", "table"]

RIDES_OUT = "rides out"
REPORTED = "names the key"

OPERATIONS = ("commit", "checkout", "save", "load", "register", "evaluate")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row of the table."""

    name: str
    kind: str
    """Name of the fault in `tests.fault_proxy`."""
    always: bool
    """True if it affects every attempt, False if the first two attempts of each request."""
    outcome: str


FAULTS = (
    Fault(name="500 once", kind="500", always=False, outcome=RIDES_OUT),
    Fault(name="500 always", kind="500", always=True, outcome=REPORTED),
    Fault(name="connection reset", kind="reset", always=False, outcome=RIDES_OUT),
    Fault(name="stall", kind="stall", always=False, outcome=RIDES_OUT),
    Fault(name="stall always", kind="stall", always=True, outcome=REPORTED),
    Fault(name="truncated body", kind="truncated", always=False, outcome=RIDES_OUT),
    Fault(name="wrong byte", kind="wrong byte", always=False, outcome=RIDES_OUT),
    Fault(name="wrong byte always", kind="wrong byte", always=True, outcome=REPORTED),
    Fault(name="lost reply after success", kind="lost reply", always=False, outcome=RIDES_OUT),
    Fault(name="slow: 1 KB/s", kind="slow", always=True, outcome=REPORTED),
)
CELLS = tuple((fault, operation) for operation in OPERATIONS for fault in FAULTS)


def table() -> str:
    """Return the table as Markdown."""
    lines = [f"| fault | {' | '.join(OPERATIONS)} |", "| --- " * (len(OPERATIONS) + 1) + "|"]
    lines += [f"| {fault.name} | {' | '.join([fault.outcome] * len(OPERATIONS))} |" for fault in FAULTS]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
