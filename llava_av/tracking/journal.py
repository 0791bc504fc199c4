"""Metrics of a run in a local file, one JSON line a step, from which MLflow can always be caught up."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_av.files import write_whole

__all__ = ["Journal", "parse_rows"]


class Journal:
    """A file that a killed run can be continued from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep_until(self, step: int) -> None:
        """Drops the rows from `step` on, and a last line that a kill cut short."""
        rows = [row for row in self.rows() if row["step"] < step]
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one row, which has a `step`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows, in order; none without a file."""
        return parse_rows(self.path.read_text(encoding="utf-8")) if self.path.exists() else []


def parse_rows(text: str) -> list[dict[str, Any]]:
    """The rows of a journal up to the first line that is cut short; the seal that it has in S3 is none."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if "step" in row:
            rows.append(row)
    return rows
