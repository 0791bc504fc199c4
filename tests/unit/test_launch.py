"""Jobs as processes of this machine, with failure causes in one line."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from llava_av.launch import JobSpec, LaunchError, LocalLauncher
from llava_av.launch.log_cause import failure_cause

WriteModule = Callable[[str], str]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Write a module that jobs can import, and return its name."""

    def write(text: str) -> str:
        (tmp_path / "job_under_test.py").write_text(text)
        paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")]), *sys.path]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        return "job_under_test"

    return write


def test_output_is_passed_on_and_kept(tmp_path: Path, write_module: WriteModule) -> None:
    module = write_module("import sys; print('one'); print(sys.argv[1], file=sys.stderr)")
    seen: list[str] = []
    spec = JobSpec(name="probe", module=module, arguments=("two words",))
    result = LocalLauncher(tmp_path / "logs").run(spec, on_line=seen.append)
    assert seen == ["one", "two words"]
    assert (result.seconds > 0, result.job) == (True, None)
    assert (tmp_path / "logs" / "probe.log").read_text() == "one\ntwo words\n"


def output(folder: Path, spec: JobSpec) -> list[str]:
    """Run a job and return its lines."""
    lines: list[str] = []
    LocalLauncher(folder).run(spec, on_line=lines.append)
    return lines


@pytest.mark.parametrize("given", ["7", None])
def test_threads_are_those_of_the_user_or_the_cores(
    tmp_path: Path, write_module: WriteModule, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    module = write_module("import os; print(os.environ['OMP_NUM_THREADS'])")
    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count()
    assert output(tmp_path, JobSpec(name="probe", module=module)) == [given or str(cores)]


def test_environment_is_inherited_and_allows_no_network(
    tmp_path: Path, write_module: WriteModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = write_module("import os\nfor name in ('HF_HUB_OFFLINE', 'EXTRA'): print(os.environ[name])")
    monkeypatch.setenv("EXTRA", "given")
    assert output(tmp_path, JobSpec(name="probe", module=module)) == ["1", "given"]


def test_preparation_runs_first_and_its_failure_ends_the_job(
    tmp_path: Path, write_module: WriteModule
) -> None:
    module = write_module("print('job')")
    good, bad = (("python", "-c", f"print('prepared'); raise SystemExit({code})") for code in (0, 3))
    assert output(tmp_path, JobSpec(name="probe", module=module, prepare=good)) == ["prepared", "job"]
    with pytest.raises(LaunchError, match="exit code 3: prepared"):
        LocalLauncher(tmp_path).run(JobSpec(name="probe", module=module, prepare=bad))


def test_group_of_one_process_is_a_group_too(tmp_path: Path, write_module: WriteModule) -> None:
    module = write_module(
        "import torch.distributed as group\n"
        "group.init_process_group('gloo')\n"
        "print(group.get_rank(), group.get_world_size())\n"
        "group.destroy_process_group()"
    )
    assert "0 1" in output(tmp_path, JobSpec(name="probe", module=module, processes=1))


def test_the_report_of_a_group_that_failed_is_in_its_log_alone(
    tmp_path: Path, write_module: WriteModule
) -> None:
    module = write_module("print('begun'); print('error: no such tower'); raise SystemExit(1)")
    lines: list[str] = []
    with pytest.raises(LaunchError, match=r"probe failed: no such tower \(log"):
        LocalLauncher(tmp_path).run(JobSpec(name="probe", module=module, processes=1), on_line=lines.append)
    assert lines == ["begun", "error: no such tower"]
    assert "ChildFailedError" in (tmp_path / "probe.log").read_text()


def test_user_error_of_the_job_is_quoted(tmp_path: Path, write_module: WriteModule) -> None:
    module = write_module("import sys; print('error: no clip x.mp4', file=sys.stderr); sys.exit(1)")
    with pytest.raises(LaunchError) as caught:
        LocalLauncher(tmp_path).run(JobSpec(name="training", module=module))
    assert str(caught.value) == f"training failed: no clip x.mp4 (log: {tmp_path}/training.log)"


def test_missing_module_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"No module named llava_av_absent \(log: ") as caught:
        LocalLauncher(tmp_path).run(JobSpec(name="training", module="llava_av_absent"))
    assert "\n" not in str(caught.value)


def test_job_ends_when_its_caller_is_interrupted(tmp_path: Path, write_module: WriteModule) -> None:
    module = write_module("import os, time\nprint(os.getpid())\ntime.sleep(600)")

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        LocalLauncher(tmp_path).run(JobSpec(name="probe", module=module), on_line=interrupt)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pids[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(pids[0])


@pytest.mark.parametrize(
    ("lines", "code", "cause"),
    [
        (["noise", "error: disk is full", "ValueError: later"], 1, "disk is full"),
        (["[rank1]: error: disk is full"], 1, "disk is full"),
        (["error: store is gone", "resumes from step 40", "error: disk is full"], 1, "disk is full"),
        (
            ["[rank1]: ValueError: bad width", "[rank0]: RuntimeError: Connection closed by peer"],
            1,
            "ValueError: bad width",
        ),
        (
            ["[rank0]: RuntimeError: Connection closed by peer", "Signal 11 (SIGSEGV) received by PID 12"],
            1,
            "a process was ended by SIGSEGV",
        ),
        (["[rank0]: RuntimeError: Connection closed by peer"], 1, "RuntimeError: Connection closed by peer"),
        (
            ["KeyError: 'x'", "llava.errors.StoreError: cannot read x"],
            1,
            "llava.errors.StoreError: cannot read x",
        ),
        (
            ["torch.distributed.elastic.multiprocessing.errors.ChildFailedError:"],
            3,
            "it ended with exit code 3",
        ),
        (
            ["  Signal 9 (SIGKILL) received by PID 12"],
            1,
            "a process was killed by SIGKILL, probably out of memory",
        ),
        ([], 137, "a process was killed by SIGKILL, probably out of memory"),
        (["Signal 15 (SIGTERM) received by PID 12"], 1, "a process was ended by SIGTERM"),
        (["UserWarning: an Error: is mentioned"], 2, "it ended with exit code 2"),
    ],
)
def test_cause_is_the_line_that_matters(lines: list[str], code: int, cause: str) -> None:
    assert failure_cause(lines, code).startswith(cause)
