"""Journal of a run: metrics in a local file, one JSON line per step, from which MLflow catches up."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

from llava_av.files import write_whole

__all__ = ["Journal", "parse_rows"]


class Journal:
    """Journal file of one run, which survives if the run is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep_until(self, step: int) -> None:
        """Drop the rows from `step` on, and a last line that a kill truncated."""
        rows = [row for row in self.rows() if row["step"] < step]
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def append(self, row: Mapping[str, float]) -> None:
        """Append one row, which has a `step`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, float]]:
        """Return all complete rows in order; none without a file."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            # Rank zero may have removed the file of an earlier job just now.
            return []
        return parse_rows(text)

    def rows_from(self, offset: int, most: int) -> tuple[list[dict[str, float]], int]:
        """Return at most `most` complete rows from a byte offset on, and the offset after them."""
        rows: list[dict[str, float]] = []
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(offset)
                for line in itertools.islice(file, most):
                    # The writer may not have finished its last line.
                    found = parse_rows(line.decode(errors="replace")) if line.endswith(b"\n") else []
                    if not found:
                        break
                    rows += found
                    offset += len(line)
        return rows, offset


def parse_rows(text: str) -> list[dict[str, float]]:
    """Return the rows of a journal up to the first truncated line, without the seal that S3 copies have."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
