"""The table of faults in docs/operations.md matches the expectations of tests/integration/test_faults.py."""

from pathlib import Path

from tests.fault_matrix import FAULTS, table
from tests.fault_proxy import FAULTS as KINDS

_TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_table_is_the_tests_expectation() -> None:
    assert table() in _TEXT, "write it anew: python -m tests.fault_matrix"
    assert {fault.kind for fault in FAULTS} <= KINDS.keys()
