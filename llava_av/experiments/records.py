"""Experiment records: Markdown with YAML front matter, one file per experiment.

```
---
id: dryrun
title: …
parent: null
created: 2026-11-02
recipe: dryrun
dataset: demo
expected:
- {metric: accuracy.av.joint, at_least: 0.9}
- {metric: accuracy.av.joint, over: parent, at_least: 0.02}
---
## Hypothesis
## Rationale
## Changes
## Next steps
## Lessons
## Observed
```
`Changes` is computed and written between two markers. Runs write the table in `Observed`
(`Seen` in records of earlier versions) between two others. People write everything else.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from llava_av.documents import problem_text
from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.named_files import FileKind, default_folder, named_folders, project_folder
from llava_av.parsing import SyntaxProblemError, parse_yaml
from llava_av.registry.expectations import Expectation

__all__ = [
    "CHANGES_BEGIN",
    "CHANGES_END",
    "ID_PATTERN",
    "OBSERVED_BEGIN",
    "OBSERVED_END",
    "OBSERVED_HEADING",
    "SECTIONS",
    "ExperimentError",
    "ExperimentRecord",
    "experiments_folder",
    "find_parent",
    "find_record",
    "list_records",
    "load_record",
    "marked_lines",
    "observed_rows",
    "parse_record",
    "read_record",
    "record_files",
    "require_records_folder",
    "split_front_matter",
    "yaml_scalar",
]

ID_PATTERN = r"^[a-z0-9][a-z0-9-]*$"
CHANGES_BEGIN = "<!-- changes: computed from recipes and datasets -->"
CHANGES_END = "<!-- end of changes -->"
OBSERVED_HEADING = "Observed"
OBSERVED_BEGIN = "<!-- seen: written by runs -->"
OBSERVED_END = "<!-- end of seen -->"
SECTIONS = {
    "Hypothesis": "hypothesis",
    "Rationale": "rationale",
    "Next steps": "next_steps",
    "Lessons": "lessons",
}
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?P<yaml>.*?\n)---[ \t]*(?:\n|\Z)(?P<body>.*)\Z", re.DOTALL)


class ExperimentError(UserError):
    """An experiment record that is missing, exists already, or lacks a part."""


class ExperimentRecord(FrozenModel):
    """One experiment record."""

    id: str = Field(pattern=ID_PATTERN)
    """Lower-case name, which is also the name of the file."""
    title: str = Field(min_length=1)
    parent: str | None = Field(default=None, pattern=ID_PATTERN)
    """ID of the experiment that this one follows."""
    created: datetime.date
    closed: datetime.date | None = None
    """Date on which it was closed; None while it is open."""
    recipe: str | None = Field(default=None, min_length=1)
    """Name or file of the recipe that its runs train."""
    dataset: str = Field(default="demo", min_length=1)
    """Dataset of its runs: `demo`, or a committed dataset as NAME or NAME@COMMIT."""
    expected: tuple[Expectation, ...] = ()
    """Checkable statements about the results."""
    hypothesis: str
    rationale: str
    next_steps: str
    lessons: str
    changes: tuple[str, ...] = ()
    """Differences from the parent, a line each, as computed when they were written."""
    observed: tuple[str, ...] = ()
    """Rows of the table of runs, in Markdown."""

    def missing_parts(self) -> tuple[str, ...]:
        """Return the missing parts without which a run teaches nothing."""
        parts = {
            "expected: at least one checkable statement": self.expected,
            "the section '## Hypothesis'": self.hypothesis,
            "the section '## Rationale'": self.rationale,
            "the section '## Next steps'": self.next_steps,
        }
        return tuple(f"{name} is missing or empty" for name, value in parts.items() if not value)

    def digest(self) -> str:
        """Return the SHA-256, in hex, of the parts that are written before a run."""
        after = {"observed", "changes", "closed", "lessons", "next_steps"}
        data = self.model_dump(mode="json", exclude=after)
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def experiments_folder() -> Path:
    """Return the folder of the project's records; outside of a project, that of the package's."""
    own = project_folder(FileKind.EXPERIMENTS)
    return own if own.is_dir() else default_folder(FileKind.EXPERIMENTS)


def find_record(id_or_path: str, folder: Path | None = None) -> Path | None:
    """Return the file of a record; None if it does not exist.

    Args:
        id_or_path: ID, or a path that ends in `.md`.
        folder: Folder of the records; the project's, then the package's, if None.
    """
    if id_or_path.endswith(".md"):
        paths = [Path(id_or_path)]
    else:
        paths = [place / f"{id_or_path}.md" for place in _folders(folder)]
    return next((path for path in paths if path.is_file()), None)


def find_parent(parent: str, folder: Path) -> Path | None:
    """Return the file of a record's parent; None if it does not exist.

    Args:
        parent: ID of the parent.
        folder: Folder of the record, searched before those of the project and of the package.
    """
    return find_record(parent, folder) or find_record(parent)


def _folders(folder: Path | None) -> tuple[Path, ...]:
    return named_folders(FileKind.EXPERIMENTS) if folder is None else (folder,)


def load_record(
    id_or_path: str, folder: Path | None = None, *, draft: bool = False
) -> tuple[Path, ExperimentRecord]:
    """Read a record by its ID, or by the path of a Markdown file.

    Args:
        id_or_path: ID, or a path that ends in `.md`.
        folder: Folder of the records; the project's, then the package's, if None.
        draft: Accept missing parts.

    Raises:
        ExperimentError: The record does not exist, or lacks a part.
    """
    path = find_record(id_or_path, folder)
    if path is None:
        files = {file.stem for place in _folders(folder) for file in record_files(place)}
        known = ", ".join(sorted(files)) or "none"
        raise ExperimentError(
            f"no experiment record {id_or_path!r}; create it with `llava-av experiment new`, "
            f"or name one of: {known}"
        )
    return path, read_record(path, draft=draft)


def read_record(path: Path, *, draft: bool = False) -> ExperimentRecord:
    """Read a record; parts may be missing from a draft.

    Raises:
        ExperimentError: The file cannot be read, or lacks a part; the message names file and part.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ExperimentError(f"experiment record {path}: {reason}") from None
    record = parse_record(text, path, draft=draft)
    if record.id != path.stem:
        raise ExperimentError(f"experiment record {path}: id: {record.id!r} is not the name of the file")
    return record


def list_records(folder: Path) -> tuple[ExperimentRecord, ...]:
    """Return the records of a folder, including drafts, oldest first.

    Raises:
        ExperimentError: The folder or a record's parent does not exist, or a record cannot be read.
    """
    require_records_folder(folder)
    records = [read_record(path, draft=True) for path in record_files(folder)]
    for record in records:
        if record.parent is not None and find_parent(record.parent, folder) is None:
            raise ExperimentError(
                f"experiment record {folder / record.id}.md: parent: there is no record {record.parent!r}"
            )
    return tuple(sorted(records, key=lambda record: (record.created, record.id)))


def parse_record(text: str, path: Path, *, draft: bool = False) -> ExperimentRecord:
    """Parse the text of a record; `path` is used in messages.

    Raises:
        ExperimentError: A part is invalid, such as an unknown metric, or missing although it is not a draft.
    """
    front, body = split_front_matter(text, path)
    sections = _sections(body)
    prose = {field: sections.get(heading, "") for heading, field in SECTIONS.items()}
    changes = marked_lines(text, path, "Changes", (CHANGES_BEGIN, CHANGES_END))
    written = {**prose, "changes": changes, "observed": observed_rows(text, path)}
    for field in written:
        if field in front:
            raise ExperimentError(f"experiment record {path}: {field} is a section, not front matter")
    try:
        record = ExperimentRecord.model_validate({**front, **written})
    except ValidationError as error:
        raise ExperimentError(f"experiment record {path}: {problem_text(ExperimentRecord, error)}") from None
    missing = () if draft else record.missing_parts()
    if missing:
        raise ExperimentError(f"experiment record {path}: {'; '.join(missing)}")
    return record


def observed_rows(text: str, path: Path) -> tuple[str, ...]:
    """Return the table rows that runs wrote, without the table's head.

    Raises:
        ExperimentError: One of the two markers is missing.
    """
    rows = marked_lines(text, path, OBSERVED_HEADING, (OBSERVED_BEGIN, OBSERVED_END))
    return tuple(line for line in rows if line.startswith("| `"))


def marked_lines(text: str, path: Path, heading: str, marks: tuple[str, str]) -> tuple[str, ...]:
    """Return the non-empty lines between two markers; none without markers.

    Raises:
        ExperimentError: One of the two markers is missing.
    """
    begin, end = marks
    if (text.count(begin), text.count(end)) == (0, 0):
        return ()
    if (text.count(begin), text.count(end)) != (1, 1) or text.index(end) < text.index(begin):
        raise ExperimentError(
            f"experiment record {path}: the section '## {heading}' needs the line {begin} and, below it, "
            f"{end}, each once"
        )
    block = text.partition(begin)[2].partition(end)[0]
    return tuple(line for line in block.splitlines() if line.strip())


def require_records_folder(folder: Path) -> Path:
    """Require that the folder of records exists, and return it.

    Raises:
        ExperimentError: It does not exist.
    """
    if not folder.is_dir():
        raise ExperimentError(
            f"no folder {folder} with experiment records: work in a project, which `llava-av init` creates, "
            "or give --folder"
        )
    return folder


def record_files(folder: Path) -> list[Path]:
    """Return the files of a folder whose names are those of records."""
    return sorted(file for file in folder.glob("*.md") if re.match(ID_PATTERN, file.stem))


def split_front_matter(text: str, path: Path) -> tuple[dict[str, object], str]:
    """Split a record into front matter and body.

    Raises:
        ExperimentError: There is no front matter, or it is not a mapping.
    """
    match = _FRONT_MATTER.match(text)
    if match is None:
        raise ExperimentError(f"experiment record {path}: the front matter between two lines --- is missing")
    try:
        front = parse_yaml(match["yaml"])
    except SyntaxProblemError as error:
        raise ExperimentError(f"experiment record {path}: the front matter is not YAML: {error}") from None
    if not isinstance(front, Mapping):
        raise ExperimentError(f"experiment record {path}: the front matter is not a mapping")
    return {str(key): value for key, value in front.items()}, match["body"]


def _sections(body: str) -> dict[str, str]:
    """Return the text below each second-level heading; texts of equal headings are joined."""
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


def yaml_scalar(text: str) -> str:
    """Return text as a YAML scalar: plain if it parses back to the same text, else quoted."""
    try:
        plain = parse_yaml(f"key: {text}") == {"key": text}
    except SyntaxProblemError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)
