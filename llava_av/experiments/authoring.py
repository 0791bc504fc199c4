"""Creating a record, updating its computed part, and closing it with lessons."""

import datetime
import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_av.experiments.completeness import computed_changes
from llava_av.experiments.locked_files import locked, replace_whole
from llava_av.experiments.outcomes import with_block, with_rows
from llava_av.experiments.records import (
    CHANGES_BEGIN,
    CHANGES_END,
    ID_PATTERN,
    ExperimentError,
    ExperimentRecord,
    find_parent,
    parse_record,
    read_record,
    yaml_scalar,
)
from llava_av.experiments.template import TEMPLATE, TEMPLATE_WORDS
from llava_av.named_files import is_installed
from llava_av.registry.expectations import Expectation

__all__ = ["Draft", "close_record", "new_record", "parse_statement", "refresh_changes"]

_NO_CHANGES = "None: recipe and dataset are the parent's."
_STATEMENT = re.compile(
    r"(?:(?P<task>[a-z0-9][a-z0-9_.-]*):\s*)?(?P<metric>[\w.*-]+)\s*(?:over\s+(?P<over>\w+)\s*)?"
    r"(?P<sign>>=|<=|>|<)\s*(?P<bound>chance|[-+]?[0-9.]+(?:e[-+]?\d+)?)"
)
_PLAIN = re.compile(r"[\w.-]+")
"""Text that YAML needs no quotes for."""
_FIELD = {">=": "at_least", "<=": "at_most", ">": "above", "<": "below"}


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Contents of a new record; empty fields are left to be filled in."""

    id: str
    title: str
    parent: str | None = None
    recipe: str | None = None
    """Recipe; that of the parent if None."""
    dataset: str | None = None
    """Dataset; that of the parent if None."""
    hypothesis: str = ""
    rationale: str = ""
    next_steps: str = ""
    expected: tuple[Expectation, ...] = ()


def parse_statement(text: str) -> Expectation:
    """Parse an expectation from one line, such as `accuracy.av.joint over parent >= 0.02`.

    Raises:
        ExperimentError: The line has another form, or the metric is unknown.
    """
    match = _STATEMENT.fullmatch(text.strip())
    if match is None:
        raise ExperimentError(
            f"--expect {text!r}: write METRIC >= NUMBER, or METRIC over parent >= NUMBER (or "
            "<=, >, <; chance for a number; TASK: before the metric)"
        )
    bound = match["bound"] if match["bound"] == "chance" else float(match["bound"])
    fields = {"metric": match["metric"], "task": match["task"], "over": match["over"]}
    try:
        return Expectation.model_validate({**fields, _FIELD[match["sign"]]: bound})
    except ValueError as error:
        first = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
        raise ExperimentError(f"--expect {text!r}: {first.removeprefix('Value error, ')}") from None


def new_record(folder: Path, draft: Draft, *, created: datetime.date | None = None) -> Path:
    """Write a new record; empty fields of the draft keep the template's text.

    Args:
        folder: Folder of the records, created if necessary.
        draft: Contents of the record.
        created: Date of creation; today if None.

    Raises:
        ExperimentError: A record with this ID exists, or ID, title, parent or recipe are not allowed.
    """
    if not re.match(ID_PATTERN, draft.id):
        raise ExperimentError(f"experiment id {draft.id!r}: use lower-case letters, digits and '-'")
    path = folder / f"{draft.id}.md"
    above = None if draft.parent is None else find_parent(draft.parent, folder)
    if draft.parent is not None and above is None:
        raise ExperimentError(f"experiment record {path}: parent: there is no record {draft.parent!r}")
    parent = None if above is None else read_record(above, draft=True)
    text = _filled(draft, parent, created or datetime.date.today())
    record = parse_record(text, path, draft=True)
    if not record.title.strip():
        raise ExperimentError(f"experiment record {path}: title: describe the experiment in one line")
    if record.recipe is not None and (parent is None or parent.recipe is not None):
        text = _with_changes(text, record, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _create_whole(path, text)
    except OSError as error:
        raise ExperimentError(f"experiment record {path}: cannot be written: {error.strerror}") from None
    return path


def refresh_changes(path: Path) -> bool:
    """Compute the section `Changes` again; return whether it was outdated.

    Raises:
        ExperimentError: The record, its parent or a recipe cannot be read, or the file cannot be written.
    """
    return _rewrite(path, lambda text, record: _with_changes(text, record, path.parent))


def close_record(
    path: Path,
    *,
    lessons: str,
    next_steps: str,
    rows: Sequence[str],
    closed: datetime.date | None = None,
) -> ExperimentRecord:
    """Close a record: add its lessons, next steps and runs, and the date.

    Args:
        path: File of the record.
        lessons: Text added to the section `Lessons`.
        next_steps: Text added to the section `Next steps`.
        rows: Rows of the table of runs that the record may lack, in Markdown.
        closed: Date; today if None.

    Raises:
        ExperimentError: There are no lessons, no next steps or no runs, or the file cannot be written.
    """
    for option, value in (("--lessons", lessons), ("--next-steps", next_steps)):
        if not value.strip():
            raise ExperimentError(f"experiment record {path} stays open: {option} is empty; write some text")
    record = read_record(path, draft=True)
    if record.closed is not None:
        raise ExperimentError(f"experiment record {path} was closed on {record.closed}; create a new one")
    observed = list(dict.fromkeys((*record.observed, *rows)))
    if not observed:
        raise ExperimentError(
            f"experiment record {path} stays open: it has no runs; name their output folder with "
            "--output-dir, or fetch the results of runs on a cluster with `llava-av experiment pull`"
        )
    day = (closed or datetime.date.today()).isoformat()

    def rewritten(text: str, record: ExperimentRecord) -> str:
        text = re.sub(r"^(created: .*\n)", rf"\1closed: {day}\n", text, count=1, flags=re.MULTILINE)
        text = _with_section(text, "Lessons", lessons)
        text = _with_section(text, "Next steps", next_steps)
        return with_rows(text, observed)

    _rewrite(path, rewritten)
    return read_record(path, draft=True)


def _filled(draft: Draft, parent: ExperimentRecord | None, created: datetime.date) -> str:
    recipe = draft.recipe or (parent.recipe if parent else None)
    dataset = draft.dataset or (parent.dataset if parent else "demo")
    expected = "".join(f"\n- {_statement(expectation)}" for expectation in draft.expected)
    return TEMPLATE.format(
        id=yaml_scalar(draft.id),
        title=yaml_scalar(draft.title),
        parent="null" if draft.parent is None else yaml_scalar(draft.parent),
        created=created.isoformat(),
        recipe="null" if recipe is None else yaml_scalar(recipe),
        dataset=yaml_scalar(dataset),
        expected=expected or " []",
        heading=" ".join(draft.title.split()),
        hypothesis=draft.hypothesis.strip() or TEMPLATE_WORDS["hypothesis"],
        rationale=draft.rationale.strip() or TEMPLATE_WORDS["rationale"],
        next_steps=draft.next_steps.strip() or TEMPLATE_WORDS["next_steps"],
    )


def _statement(expectation: Expectation) -> str:
    fields = expectation.model_dump(exclude_none=True)
    values = (
        value if isinstance(value, str) and _PLAIN.fullmatch(value) else json.dumps(value)
        for value in fields.values()
    )
    return "{" + ", ".join(f"{key}: {value}" for key, value in zip(fields, values, strict=True)) + "}"


def _with_changes(text: str, record: ExperimentRecord, folder: Path) -> str:
    if record.parent is None:
        return text
    lines = [f"- {line}" for line in computed_changes(record, folder)] or [_NO_CHANGES]
    return with_block(text, "Changes", (CHANGES_BEGIN, CHANGES_END), lines)


def _with_section(text: str, heading: str, added: str) -> str:
    """Return the text with an addition to a section, which replaces the template's text."""
    pattern = re.compile(rf"^## {heading}[ \t]*\n(?P<body>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    match = pattern.search(text)
    if match is None:
        return f"{text.rstrip()}\n\n## {heading}\n\n{added.strip()}\n"
    body = match["body"].strip()
    kept = "" if body in TEMPLATE_WORDS.values() else f"{body}\n\n"
    return text[: match.start()] + f"## {heading}\n\n{kept}{added.strip()}\n\n" + text[match.end() :]


def _rewrite(path: Path, change: Callable[[str, ExperimentRecord], str]) -> bool:
    if is_installed(path):
        raise ExperimentError(
            f"experiment record {path} belongs to the installed package: copy it to the folder experiments "
            "of your project, and change it there"
        )
    try:
        with locked(path.parent):
            text = path.read_text(encoding="utf-8-sig")
            after = change(text, parse_record(text, path, draft=True))
            parse_record(after, path, draft=True)
            if after != text:
                replace_whole(path.resolve(), after)
            return after != text
    except OSError as error:
        raise ExperimentError(f"experiment record {path}: cannot be written: {error.strerror}") from None


def _create_whole(path: Path, text: str) -> None:
    """Write a new file atomically; an existing one is not replaced."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.link(part, path)
    except FileExistsError:
        raise ExperimentError(f"experiment record {path} already exists; choose another id") from None
    finally:
        part.unlink(missing_ok=True)
