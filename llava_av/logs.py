"""Logging, set up once in each process and inherited by its child processes.

Modules log through `logging.getLogger(__name__)`. Commands, jobs and pipeline steps call `configure_logging`
when they start: log lines go to standard error, results to standard output. Two environment variables carry
level and format to child processes, such as torchrun's ranks and a pipeline's steps.

The text format is a protocol: launchers read why a job failed from its `error: …` lines, and pass the other
lines on at the level that their prefix names. `parse_line` reads both formats.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from llava_av.errors import UserError
from llava_av.redaction import redact

__all__ = [
    "FORMATS",
    "FORMAT_VARIABLE",
    "LEVELS",
    "LEVEL_VARIABLE",
    "ParsedLine",
    "configure_logging",
    "inherited_variables",
    "log_error",
    "parse_line",
    "relay_line",
]

LEVEL_VARIABLE = "LLAVA_AV_LOG_LEVEL"
"""Variable with the least severe level to log: one of `LEVELS`, `info` if unset."""
FORMAT_VARIABLE = "LLAVA_AV_LOG_FORMAT"
"""Variable with the format: one of `FORMATS`, `text` if unset."""
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS = ("text", "json")
_OWN = ("llava_av", "pipelines")
# It warns of each retry, and the error of the last one says what failed.
_NOISY = ("urllib3",)
_REQUIRED = ("time", "level", "logger", "message")
_RELAY = logging.getLogger("llava_av.job")
_ERRORS = logging.getLogger("llava_av")


@dataclass(frozen=True, kw_only=True)
class ParsedLine:
    """A line of a process's output: a log record in either format, or any other text."""

    level: int
    message: str
    """Line without the level prefix."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """All fields of a record in JSON; empty for text."""


def configure_logging(**context: str) -> None:
    """Log to standard error as the environment variables say; a second call replaces the first.

    Args:
        context: Fields for each record in JSON, such as the run's ID; `rank` comes from torchrun.

    Raises:
        UserError: A variable has an unknown value. Errors are logged all the same, as text.
    """
    rank = os.environ.get("RANK")
    fields: dict[str, str | int] = {**context}
    if rank and rank.isdigit():
        fields["rank"] = int(rank)
    _install(_TextFormatter(), logging.INFO)
    level = LEVELS[_chosen(LEVEL_VARIABLE, tuple(LEVELS), "info")]
    as_json = _chosen(FORMAT_VARIABLE, FORMATS, "text") == "json"
    _install(_JsonFormatter(fields) if as_json else _TextFormatter(), level)
    # As text, Python's own form of warnings and uncaught exceptions already says what they are.
    logging.captureWarnings(as_json)
    if as_json:
        sys.excepthook, threading.excepthook = _log_uncaught, _log_uncaught_in_thread
    elif sys.excepthook is _log_uncaught:
        sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    _ERRORS.error("%s: %s", kind.__name__, error, exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    """Log a warning: the process continues, so this is not why a job fails."""
    kind, error = arguments.exc_type, arguments.exc_value
    if error is None or issubclass(kind, SystemExit):
        return
    name = "a thread" if arguments.thread is None else f"thread {arguments.thread.name}"
    shown = (kind, error, arguments.exc_traceback)
    _ERRORS.warning("%s: %s in %s", kind.__name__, error, name, exc_info=shown)


def inherited_variables() -> dict[str, str]:
    """Return the variables with which a process elsewhere logs like this one."""
    return {name: os.environ[name] for name in (LEVEL_VARIABLE, FORMAT_VARIABLE) if os.environ.get(name)}


def log_error(line: str, error: BaseException, *, traceback: bool = False) -> None:
    """Log why a process fails.

    Args:
        line: The cause in one line.
        error: The error, whose traceback follows at level `debug`.
        traceback: Add the traceback at every level, as for a bug.
    """
    shown = traceback or _ERRORS.isEnabledFor(logging.DEBUG)
    _ERRORS.error("%s", line, exc_info=error if shown else None)


def relay_line(line: str) -> None:
    """Log a line of a job's output at its own level; fields of a record in JSON are kept."""
    parsed = parse_line(line)
    _RELAY.log(parsed.level, "%s", parsed.message, extra={"relayed": parsed})


def parse_line(line: str) -> ParsedLine:
    """Read a line that `configure_logging` or any other program wrote."""
    if line.startswith("{"):
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        if isinstance(fields, dict) and all(name in fields for name in _REQUIRED):
            level = LEVELS.get(str(fields["level"]), logging.INFO)
            return ParsedLine(level=level, message=str(fields["message"]), fields=fields)
    for name, level in LEVELS.items():
        if name != "info" and line.startswith(f"{name}: "):
            return ParsedLine(level=level, message=line.removeprefix(f"{name}: "))
    return ParsedLine(level=logging.INFO, message=line)


def _chosen(variable: str, allowed: tuple[str, ...], default: str) -> str:
    value = os.environ.get(variable) or default
    if value not in allowed:
        names = ", ".join(allowed)
        raise UserError(f"{variable}={value!r} is unknown: set it to one of {names}, or unset it")
    return value


def _install(formatter: logging.Formatter, level: int) -> None:
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _StandardError)]:
        root.removeHandler(old)
    handler = _StandardError(level)
    handler.setFormatter(formatter)
    root.addHandler(handler)
    root.setLevel(max(level, logging.WARNING))
    for name in _OWN:
        logging.getLogger(name).setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING if level == logging.DEBUG else logging.ERROR)


class _StandardError(logging.Handler):
    """A handler that writes to what `sys.stderr` is at the time of each record."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class _TextFormatter(logging.Formatter):
    """Messages with the level before them, unless it is `info`."""

    def format(self, record: logging.LogRecord) -> str:
        text = _text(record)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return redact(text)


def _text(record: logging.LogRecord) -> str:
    message, level = record.getMessage(), record.levelname.lower()
    relayed = _relayed(record)
    if not _is_own(record.name):
        # `error: ` at the start of a line is a job's own reason to fail; a library's may be passing.
        return f"{record.name}: {level}: {message}"
    if record.levelno == logging.DEBUG and relayed is None:
        message = f"{record.name}: {message}"
    return message if record.levelno == logging.INFO else f"{level}: {message}"


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger and message, then context."""

    def __init__(self, context: Mapping[str, str | int]) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._context,
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        relayed = _relayed(record)
        fields |= relayed.fields if relayed is not None else {}
        return json.dumps(_redacted(fields), ensure_ascii=False)


def _redacted(value: Any) -> Any:
    """Redact all texts in nested JSON."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(name): _redacted(content) for name, content in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, list | tuple) else value


def _relayed(record: logging.LogRecord) -> ParsedLine | None:
    relayed = getattr(record, "relayed", None)
    return relayed if isinstance(relayed, ParsedLine) else None


def _is_own(logger: str) -> bool:
    return logger.partition(".")[0] in _OWN
