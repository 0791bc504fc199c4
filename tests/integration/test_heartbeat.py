"""Real process groups with one stopped or hanging process: the others exit and name it."""

import re
from pathlib import Path

import psutil
import pytest

from llava_av.launch import JobSpec, Launcher, LaunchError, LocalLauncher
from llava_av.processes import set_variables
from llava_av.processes.heartbeat import (
    JOIN_LIMIT_VARIABLE,
    SILENCE_LIMIT_VARIABLE,
    STEP_LIMIT_VARIABLE,
    HeartbeatError,
    Limits,
)
from tests.forked_group import ForkedLauncher, ForkServer

# The deadline of the test is what stops a hang: without a heartbeat it is days.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def ended(
    how: str,
    launcher: Launcher,
    *,
    silence_s: int = 10,
    step_s: int = 600,
    join_s: int = 600,
    processes: int = 2,
) -> tuple[str, list[str]]:
    """How a group ended, and what it said."""
    lines: list[str] = []
    limits = {SILENCE_LIMIT_VARIABLE: silence_s, STEP_LIMIT_VARIABLE: step_s, JOIN_LIMIT_VARIABLE: join_s}
    spec = JobSpec(name=how, module="tests.beating_group", arguments=(how,), processes=processes)
    try:
        with set_variables({name: str(seconds) for name, seconds in limits.items()}):
            launcher.run(spec, on_line=lines.append)
    except LaunchError as error:
        return str(error), lines
    return "", lines


@pytest.fixture
def forked(forks: ForkServer, tmp_path: Path) -> ForkedLauncher:
    """Return a launcher for groups that end by themselves; only torchrun ends a process that was stopped."""
    return ForkedLauncher(forks, tmp_path)


def pid_of_last_rank(lines: list[str]) -> str:
    return next(found[1] for line in lines if (found := re.match(r"the last rank is (\d+)", line)))


@pytest.mark.slow
def test_a_stopped_process_is_named_and_ended(tmp_path: Path) -> None:
    error, lines = ended("stopped", LocalLauncher(tmp_path), silence_s=2, step_s=600)
    pid = pid_of_last_rank(lines)
    assert re.search(rf"rank 1 \(pid {pid} on host \S+\) sent no heartbeat for 2 s", error)
    assert any("barrier" in line and "File" in line for line in lines), "stacks of the one that waits"
    assert not psutil.pid_exists(int(pid))


def test_a_process_that_hangs_is_named_and_leaves_its_stack(forked: ForkedLauncher) -> None:
    error, lines = ended("hanging", forked, silence_s=10, step_s=6)
    assert f"rank 1 (pid {pid_of_last_rank(lines)} on host" in error
    assert "did not get beyond step 2 within 6 s" in error
    assert any("beating_group.py" in line and "in main" in line for line in lines)
    [saved] = [at for at, line in enumerate(lines) if line.startswith("saved rank 1 (pid")]
    assert any("beating_group.py" in line and "in main" in line for line in lines[saved:])


@pytest.mark.slow
def test_a_single_process_that_hangs_ends_itself(forked: ForkedLauncher) -> None:
    error, lines = ended("hanging", forked, step_s=6, processes=1)
    assert f"rank 0 (pid {pid_of_last_rank(lines)} on host" in error
    assert "did not get beyond step 2 within 6 s" in error


@pytest.mark.slow
def test_a_process_that_never_joins_is_named(forked: ForkedLauncher) -> None:
    error, lines = ended("absent", forked, join_s=10)
    assert re.search(r"rank 1 of 2 did not start within 10 s, while rank 0 on host \S+ waited", error)
    assert any("init_process_group" in line and "File" in line for line in lines)


@pytest.mark.parametrize("name", [SILENCE_LIMIT_VARIABLE, STEP_LIMIT_VARIABLE, JOIN_LIMIT_VARIABLE])
@pytest.mark.parametrize("text", ["soon", "nan", "inf", "-1", "0", "1e400"])
def test_a_limit_that_is_no_number_of_seconds_is_refused(name: str, text: str) -> None:
    with pytest.raises(HeartbeatError, match=f"{name}='{text}' must be a number of seconds from 1 to"):
        Limits.from_env({name: text})


def test_a_group_that_lacks_nobody_ends_well(forked: ForkedLauncher) -> None:
    assert ended("well", forked, silence_s=2, step_s=600)[0] == ""
