"""Experiment records: Markdown with YAML front matter, one file an experiment.

```
---
id: dryrun
title: …
parent: null
created: 2026-11-02
expected:
- {metric: accuracy.av.joint, at_least: 0.9}
---
## Hypothesis
## Rationale
## Next steps
## Lessons
## Seen
```
Runs write `Seen`, between two markers; everything else is written by people.
"""

import datetime
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llava_av.errors import UserError
from llava_av.registry.expectations import Expectation

__all__ = [
    "ID_PATTERN",
    "SEEN_BEGIN",
    "SEEN_END",
    "ExperimentError",
    "ExperimentRecord",
    "experiments_folder",
    "list_records",
    "load_record",
    "new_record",
    "parse_record",
    "read_record",
    "seen_rows",
]

ID_PATTERN = r"^[a-z0-9][a-z0-9-]*$"
SEEN_BEGIN = "<!-- seen: written by runs -->"
SEEN_END = "<!-- end of seen -->"
_SECTIONS = {
    "Hypothesis": "hypothesis",
    "Rationale": "rationale",
    "Next steps": "next_steps",
    "Lessons": "lessons",
}
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?P<yaml>.*?\n)---[ \t]*(?:\n|\Z)(?P<body>.*)\Z", re.DOTALL)
_TEMPLATE = f"""\
---
id: {{id}}
title: {{title}}
parent: {{parent}}
created: {{created}}
# Each line is a number of evaluation.json with at_least or at_most (a number, or chance); the gate and every
# run check all of them.
expected:
- {{{{metric: accuracy.av.joint, at_least: 0.9}}}}
---

# {{heading}}

## Hypothesis

What is believed, so that a run can show it to be wrong.

## Rationale

Why it is believed, and why it is worth a run.

## Next steps

- What follows if it holds.
- What follows if it does not.

## Lessons

Nothing yet.

## Seen

{SEEN_BEGIN}
{SEEN_END}
"""


class ExperimentError(UserError):
    """An experiment record that is missing, is there already, or lacks a part."""


class ExperimentRecord(BaseModel):
    """One experiment record."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: str = Field(pattern=ID_PATTERN)
    """Lower-case name; also the name of the file."""
    title: str = Field(min_length=1)
    parent: str | None = Field(default=None, pattern=ID_PATTERN)
    """Id of the experiment that this one follows."""
    created: datetime.date
    expected: tuple[Expectation, ...] = Field(min_length=1)
    """What the run must show, checkable."""
    hypothesis: str = Field(min_length=1)
    rationale: str = Field(min_length=1)
    next_steps: str
    lessons: str
    seen: tuple[str, ...] = ()
    """Rows of the table of runs, in Markdown."""

    def digest(self) -> str:
        """sha256 of what people wrote, in hex: what runs wrote under `Seen` does not change it."""
        data = self.model_dump(mode="json", exclude={"seen"})
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def experiments_folder() -> Path:
    """The folder of the records that come with the code."""
    return Path(__file__).resolve().parent.parent.parent / "experiments"


def load_record(id_or_path: str, folder: Path | None = None) -> tuple[Path, ExperimentRecord]:
    """Reads a record by its id, or by the path of a Markdown file.

    Args:
        id_or_path: an id, or a path that ends in `.md`.
        folder: where ids are looked up; by default `experiments_folder()`.

    Raises:
        ExperimentError: no such record, or one that lacks a part.
    """
    folder = experiments_folder() if folder is None else folder
    path = Path(id_or_path) if id_or_path.endswith(".md") else folder / f"{id_or_path}.md"
    if not path.is_file():
        known = ", ".join(file.stem for file in _record_files(folder)) or "none"
        raise ExperimentError(
            f"no experiment record {id_or_path!r}; make it with `llava-av experiment new`, "
            f"or name one of: {known}"
        )
    return path, read_record(path)


def read_record(path: Path) -> ExperimentRecord:
    """Reads a record.

    Raises:
        ExperimentError: the file cannot be read, or lacks a part; the message names file and part.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ExperimentError(f"experiment record {path}: {reason}") from None
    record = parse_record(text, path)
    if record.id != path.stem:
        raise ExperimentError(f"experiment record {path}: id: {record.id!r} is not the name of the file")
    return record


def list_records(folder: Path) -> tuple[ExperimentRecord, ...]:
    """The records of a folder, oldest first.

    Raises:
        ExperimentError: a record that lacks a part, or whose parent is not there.
    """
    records = [read_record(path) for path in _record_files(folder)]
    known = {record.id for record in records}
    for record in records:
        if record.parent is not None and record.parent not in known:
            raise ExperimentError(
                f"experiment record {folder / record.id}.md: parent: there is no record {record.parent!r}"
            )
    return tuple(sorted(records, key=lambda record: (record.created, record.id)))


def new_record(
    folder: Path,
    record_id: str,
    title: str,
    *,
    parent: str | None = None,
    created: datetime.date | None = None,
) -> Path:
    """Writes a complete record to be filled in, and never over another.

    Args:
        folder: where records are kept; made if it does not exist.
        record_id: id of the record.
        title: one line.
        parent: id of the record that it follows.
        created: day of writing; today if None.

    Raises:
        ExperimentError: a record of that id is there already, or id, title or parent are not allowed.
    """
    if not re.match(ID_PATTERN, record_id):
        raise ExperimentError(f"experiment id {record_id!r}: use lower-case letters, digits and '-'")
    path = folder / f"{record_id}.md"
    text = _TEMPLATE.format(
        id=_scalar(record_id),
        title=_scalar(title),
        parent="null" if parent is None else _scalar(parent),
        created=(created or datetime.date.today()).isoformat(),
        heading=" ".join(title.split()),
    )
    parse_record(text, path)
    if parent is not None and not (folder / f"{parent}.md").is_file():
        raise ExperimentError(f"experiment record {path}: parent: there is no record {parent!r} in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _create_whole(path, text)
    except OSError as error:
        raise ExperimentError(f"experiment record {path}: cannot be written: {error.strerror}") from None
    return path


def parse_record(text: str, path: Path) -> ExperimentRecord:
    """Makes a record of its text; `path` is for messages.

    Raises:
        ExperimentError: a part is missing or not allowed.
    """
    front, body = _split(text, path)
    sections = _sections(body)
    for heading in _SECTIONS:
        if heading not in sections:
            raise ExperimentError(f"experiment record {path}: the section '## {heading}' is missing")
    prose = {field: sections[heading] for heading, field in _SECTIONS.items()}
    written = {**prose, "seen": seen_rows(text, path)}
    for field in written:
        if field in front:
            raise ExperimentError(f"experiment record {path}: {field} is a section, not front matter")
    try:
        return ExperimentRecord.model_validate({**front, **written})
    except ValidationError as error:
        raise ExperimentError(f"experiment record {path}: {_first_problem(error)}") from None


def seen_rows(text: str, path: Path) -> tuple[str, ...]:
    """The table rows that runs wrote, without the table's head.

    Raises:
        ExperimentError: one marker without the other.
    """
    if (text.count(SEEN_BEGIN), text.count(SEEN_END)) == (0, 0):
        return ()
    if (text.count(SEEN_BEGIN), text.count(SEEN_END)) != (1, 1) or text.index(SEEN_END) < text.index(
        SEEN_BEGIN
    ):
        raise ExperimentError(
            f"experiment record {path}: the section '## Seen' needs the line {SEEN_BEGIN} and, below it, "
            f"{SEEN_END}, each once"
        )
    block = text.partition(SEEN_BEGIN)[2].partition(SEEN_END)[0]
    return tuple(line for line in block.splitlines() if line.startswith("| `"))


def _record_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.md") if re.match(ID_PATTERN, file.stem))


def _split(text: str, path: Path) -> tuple[dict[str, Any], str]:
    match = _FRONT_MATTER.match(text)
    if match is None:
        raise ExperimentError(f"experiment record {path}: the front matter between two lines --- is missing")
    try:
        front = yaml.safe_load(match["yaml"])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ExperimentError(f"experiment record {path}: the front matter is not YAML: {reason}") from None
    if not isinstance(front, Mapping):
        raise ExperimentError(f"experiment record {path}: the front matter is not a mapping")
    return {str(key): value for key, value in front.items()}, match["body"]


def _sections(body: str) -> dict[str, str]:
    """Text below each second-level heading; of a heading that comes twice, all of it."""
    found: dict[str, list[str]] = {}
    heading, fenced = "", False
    for line in body.splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("## ") and not fenced:
            heading = line[3:].strip()
            found.setdefault(heading, [])
        else:
            found.setdefault(heading, []).append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def _scalar(text: str) -> str:
    """The text in YAML: plain where that reads back as the same text, else in quotes."""
    try:
        plain = yaml.safe_load(f"key: {text}") == {"key": text}
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    given = "" if first["type"] == "missing" else f", got {first['input']!r}"[:120]
    return f"{field}: {first['msg'].removeprefix('Value error, ')}{given}"


def _create_whole(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all, and never in place of another."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.link(part, path)
    except FileExistsError:
        raise ExperimentError(f"experiment record {path} is there already; choose another id") from None
    finally:
        part.unlink(missing_ok=True)
