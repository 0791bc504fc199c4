"""Logging: levels, both formats, redaction, and inheritance by child processes."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llava_av import logs
from llava_av.cli.app import app
from llava_av.errors import UserError
from llava_av.launch import JobProfile, JobSpec, LaunchError, LocalLauncher
from llava_av.launch.kubernetes.pytorchjob import CONTENT_LABEL, build_job
from llava_av.launch.log_cause import failure_cause
from llava_av.logs import (
    FORMAT_VARIABLE,
    LEVEL_VARIABLE,
    configure_logging,
    log_error,
    parse_line,
    relay_line,
)

OURS = logging.getLogger("llava_av.storage.retrying")
OTHER = logging.getLogger("some_library.part")
PASSWORD = "correct-horse"


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no handler, level or variable behind."""
    for name in (LEVEL_VARIABLE, FORMAT_VARIABLE, "RANK"):
        monkeypatch.setenv(name, "")
    root = logging.getLogger()
    own = [logging.getLogger(name) for name in ("llava_av", "pipelines", "urllib3")]
    handlers, levels = root.handlers[:], [one.level for one in (root, *own)]
    hooks = sys.excepthook, threading.excepthook
    yield
    root.handlers[:] = handlers
    for one, level in zip((root, *own), levels, strict=True):
        one.setLevel(level)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks


def _log_at_each_level() -> None:
    OURS.debug("attempt %d", 2)
    OURS.info("retried")
    OURS.warning("slow")
    OURS.error("gone")
    OTHER.info("noise")
    OTHER.warning("reset")


def _records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("level", "lines"),
    [
        ("debug", ["debug: llava_av.storage.retrying: attempt 2", "retried", "warning: slow", "error: gone"]),
        ("", ["retried", "warning: slow", "error: gone"]),
        ("warning", ["warning: slow", "error: gone"]),
        ("error", ["error: gone"]),
    ],
)
def test_each_level_shows_itself_and_what_is_more_severe(
    level: str, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, level)
    configure_logging()
    configure_logging()
    _log_at_each_level()
    out, err = capsys.readouterr()
    assert out == ""
    # What another library warns of is no cause of a job's failure, so its line does not begin like one.
    other = [] if level == "error" else ["some_library.part: warning: reset"]
    assert err.splitlines() == lines + other


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", False)])
def test_retries_of_urllib3_are_debug_output(
    level: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, level)
    configure_logging()
    logging.getLogger("urllib3.connectionpool").warning("Retrying")
    assert ("Retrying" in capsys.readouterr().err) is shown


def test_json_lines_carry_time_level_logger_message_rank_and_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    monkeypatch.setenv("RANK", "3")
    configure_logging(run="0123-abc")
    OURS.warning("no clip %s", "a\nb.mp4")
    (record,) = _records(capsys.readouterr().err)
    assert datetime.fromisoformat(record.pop("time")).tzinfo is not None
    assert record == {
        "level": "warning",
        "logger": OURS.name,
        "message": "no clip a\nb.mp4",
        "rank": 3,
        "run": "0123-abc",
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_redacted_in_messages_and_tracebacks(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, form)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    configure_logging(run=PASSWORD)
    OURS.warning("cannot reach %s with %s", "http://ada:s3cret!@host/x", PASSWORD)
    log_error("it failed", RuntimeError(f"key {PASSWORD}"), traceback=True)
    err = capsys.readouterr().err
    assert PASSWORD not in err
    assert "s3cret!" not in err
    assert "http://host/x" in err
    assert "RuntimeError: key ***" in err


def test_secrets_in_nested_fields_are_redacted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    configure_logging()
    fields = {"time": "t", "level": "info", "logger": "x", "message": "m"}
    relay_line(json.dumps({**fields, "tried": [{"url": f"http://me:{PASSWORD}@host", "count": 2}]}))
    [record] = _records(capsys.readouterr().err)
    assert record["tried"] == [{"url": "http://host", "count": 2}]


UNCAUGHT = """
import threading
from llava_av.logs import configure_logging
configure_logging(run="0123")
def fail(number): raise ValueError(f"number {number}")
thread = threading.Thread(target=fail, args=(1,), name="second"); thread.start(); thread.join()
fail(2)
"""


def test_uncaught_exceptions_are_records_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    done = subprocess.run([sys.executable, "-c", UNCAUGHT], capture_output=True, text=True, timeout=60)
    first, second = _records(done.stderr)
    assert done.returncode == 1
    assert (first["level"], first["message"]) == ("warning", "ValueError: number 1 in thread second")
    assert (second["level"], second["message"], second["run"]) == ("error", "ValueError: number 2", "0123")
    assert "ValueError: number 2" in second["traceback"]
    assert failure_cause(done.stderr.splitlines(), 1) == "ValueError: number 2"


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", False)])
def test_an_error_is_one_line_and_debug_adds_its_traceback(
    level: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, level)
    configure_logging()
    try:
        raise UserError("no clip")
    except UserError as error:
        log_error("no clip", error)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "error: no clip"
    assert any("Traceback" in line for line in rest) is shown
    assert bool(rest) is shown


@pytest.mark.parametrize("variable", [LEVEL_VARIABLE, FORMAT_VARIABLE])
def test_an_unknown_value_is_an_error_that_is_logged_all_the_same(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "loud")
    with pytest.raises(UserError, match=rf"{variable}='loud'.*(debug|text)"):
        configure_logging()
    OURS.error("seen")
    assert capsys.readouterr().err == "error: seen\n"


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (["--verbose"], {LEVEL_VARIABLE: "debug"}),
        (["--quiet", "--log-format", "json"], {LEVEL_VARIABLE: "warning", FORMAT_VARIABLE: "json"}),
    ],
)
def test_global_options_become_variables_for_child_processes(
    options: list[str], variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = "import os, json; print(json.dumps(dict(os.environ)))"

    def status(state: Path) -> None:
        assert logs.inherited_variables() == variables
        done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
        inherited.update(json.loads(done.stdout))

    inherited: dict[str, str] = {}
    monkeypatch.setattr("llava_av.services.services_status", status)
    CliRunner().invoke(app, [*options, "services", "status", "--output-dir", str(tmp_path)])
    assert variables.items() <= inherited.items()
    assert logs.inherited_variables() == {}


@pytest.mark.parametrize("options", [["--verbose", "--quiet"], ["--log-format", "xml"]])
def test_options_that_cannot_be(options: list[str]) -> None:
    result = CliRunner().invoke(app, [*options, "services", "status"])
    assert result.exit_code == 2
    assert options[0] in result.stderr


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines_of_a_job_keep_level_and_fields_when_they_are_passed_on(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, form)
    monkeypatch.setenv("RANK", "1")
    configure_logging(run="0123")
    OURS.warning("slow")
    (written,) = capsys.readouterr().err.splitlines()
    monkeypatch.setenv("RANK", "")
    configure_logging()
    relay_line(written)
    assert capsys.readouterr().err == written + "\n"


def test_plain_lines_of_a_job_become_records(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    monkeypatch.setenv(LEVEL_VARIABLE, "warning")
    configure_logging()
    for line in ("loading", "warning: slow", "error: gone", '{"loss": 1}'):
        relay_line(line)
    found = [(record["level"], record["message"]) for record in _records(capsys.readouterr().err)]
    assert found == [("warning", "slow"), ("error", "gone")]


def test_json_of_others_is_text() -> None:
    for line in ('{"loss": 1}', "{not json", '{"level": "error", "message": "x"}'):
        assert parse_line(line) == logs.ParsedLine(level=logging.INFO, message=line)


def test_ranks_inherit_format_and_level_and_the_cause_is_found_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inheriting_job.py").write_text(
        "import logging\n"
        "from llava_av.errors import UserError\n"
        "from llava_av.processes import job_main\n"
        "def fail(run, work):\n"
        "    logging.getLogger('llava_av.training').debug('begun')\n"
        "    raise UserError('no clip x.mp4')\n"
        "raise SystemExit(job_main('inheriting_job', lambda: fail))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(logs.__file__).parents[1]}")
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    monkeypatch.setenv(LEVEL_VARIABLE, "debug")
    lines: list[str] = []
    spec = JobSpec(
        name="job", module="inheriting_job", arguments=("--run", "0123", "--work", str(tmp_path)), processes=2
    )
    with pytest.raises(LaunchError, match=r"job failed: no clip x\.mp4 \("):
        LocalLauncher(tmp_path / "logs").run(spec, on_line=lines.append)
    records = [parse_line(line).fields for line in lines if parse_line(line).fields]
    begun = [record for record in records if record["message"] == "begun"]
    assert {record["rank"] for record in begun} <= {0, 1}
    assert begun
    assert all(record["run"] == "0123" and record["level"] == "debug" for record in begun)
    assert any("Traceback" in record.get("traceback", "") for record in records)


def test_the_cause_of_a_json_log_is_its_last_error() -> None:
    fields = {"time": "2026-01-01T00:00:00+00:00", "logger": "llava_av"}
    lines = [json.dumps({**fields, "level": "error", "message": text}) for text in ("first", "last")]
    lines.append(json.dumps({**fields, "level": "warning", "message": "after"}))
    assert failure_cause([*lines, "RuntimeError: later"], 1) == "last"


def test_pods_log_like_the_launcher_and_their_job_stays_the_same() -> None:
    spec = JobSpec(name="train", module="m", prepare=("python", "-m", "p"))
    profile = JobProfile(image="train@sha256:" + "a" * 64, environment={FORMAT_VARIABLE: "text"})
    plain = build_job(spec, profile)
    chosen = build_job(spec, profile, log_variables={LEVEL_VARIABLE: "debug", FORMAT_VARIABLE: "json"})
    assert chosen["metadata"]["labels"][CONTENT_LABEL] == plain["metadata"]["labels"][CONTENT_LABEL]
    pod = chosen["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        values = {one["name"]: one.get("value") for one in container["env"]}
        assert values[LEVEL_VARIABLE] == "debug"
        # The profile decides where it says something.
        assert values[FORMAT_VARIABLE] == "text"


def test_the_command_shows_results_on_standard_output_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llava_av", "--log-format", "json", "data", "convert"]
    source = tmp_path / "in.json"
    source.write_text(
        json.dumps([{"system": "s", "query": "q", "response": "r"}, {"query": "q2", "response": "r"}])
    )
    made = subprocess.run(
        [*command, str(source), str(tmp_path / "out.jsonl")], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert "2 samples written" in made.stdout
    (warning,) = _records(made.stderr)
    assert (warning["level"], warning["message"].split()[0]) == ("warning", "1")
    again = subprocess.run([*command, "absent.json", "x.jsonl"], capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (1, "")
    (error,) = _records(again.stderr)
    assert error["level"] == "error"
    assert "absent.json" in error["message"]
