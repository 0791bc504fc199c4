"""The journal of a run, and what is left of a damaged one."""

import threading
import time
from pathlib import Path

import pytest

from llava_av.tracking.journal import Journal

ROW = '{"step": 0, "loss": 1.5}\n'


@pytest.mark.parametrize(
    "rest",
    [b'{"step": 1, "lo', b"5\n", b'{"step": null}\n', b'{"loss": 2}\n', b"\xff\xfe\n", b"[]\n", b""],
    ids=["truncated", "a number", "no step", "without step", "no text", "a list", "nothing"],
)
def test_rows_before_the_damage_are_kept(tmp_path: Path, rest: bytes) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.path.write_bytes(ROW.encode() + rest)
    journal.keep_until(1)
    assert journal.path.read_text() == ROW
    journal.append({"step": 1, "loss": 1.0})
    assert [row["step"] for row in journal.rows()] == [0, 1]


def test_rows_from_the_step_on_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    for step in range(4):
        journal.append({"step": step})
    journal.keep_until(2)
    assert [row["step"] for row in journal.rows()] == [0, 1]


def test_new_rows_are_read_from_where_the_last_ones_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    assert journal.rows_from(0, 2) == ([], 0)
    for step in range(3):
        journal.append({"step": step})
    first, offset = journal.rows_from(0, 2)
    rest, end = journal.rows_from(offset, 2)
    assert [[row["step"] for row in rows] for rows in (first, rest)] == [[0, 1], [2]]
    assert end == journal.path.stat().st_size
    with journal.path.open("a") as file:
        file.write('{"step": 3')
    assert journal.rows_from(end, 2) == ([], end)
    with journal.path.open("a") as file:
        file.write("}\n")
    assert journal.rows_from(end, 2) == ([{"step": 3}], journal.path.stat().st_size)


def test_a_file_that_is_removed_while_it_is_read_has_no_rows(tmp_path: Path) -> None:
    journal, ended = Journal(tmp_path / "metrics.jsonl"), threading.Event()

    def restart() -> None:
        while not ended.is_set():
            journal.path.write_text(ROW)
            journal.path.unlink()

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        # About ten reads of this second happen while the file is being replaced.
        end = time.monotonic() + 1
        found = [journal.rows()]
        while time.monotonic() < end:
            found.append(journal.rows())
    finally:
        ended.set()
        thread.join()
    assert all(rows in ([], [{"step": 0, "loss": 1.5}]) for rows in found)
