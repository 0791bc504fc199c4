"""Lifelines, guards and progress, with real processes that are killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from llava_av.processes import (
    LIFELINE_VARIABLE,
    PROGRESS_VARIABLE,
    Lifeline,
    ProgressEvent,
    follow_progress,
    handling_signals,
    job_main,
    report_progress,
)
from llava_av.processes.guard import guarded_popen
from llava_av.processes.termination import TerminatedError, deferring_sigterm

# Prints its process ID and that of a child in its own session, then waits forever.
TREE = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
import os
target = pathlib.Path(sys.argv[1])
target.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
target.with_suffix(".part").rename(target)
time.sleep(600)
"""
WATCHER = """
import pathlib, sys, time
from llava_av.processes import watch_lifeline
watch_lifeline()
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""
OWNER = """
import os, pathlib, sys, time
from llava_av.processes import Lifeline
from llava_av.processes.guard import guarded_popen
lifeline = Lifeline()
process = guarded_popen([sys.executable, *sys.argv[1:]], env={**os.environ, **lifeline.env()})
time.sleep(600)
"""
STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""


def wait_until(condition: Callable[[], bool], deadline_s: float = 60.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "deadline passed"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def read_pids(path: Path) -> list[int]:
    wait_until(path.exists)
    return [int(word) for word in path.read_text().split()]


def start_watcher(ready: Path, lifeline: Lifeline) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", WATCHER, str(ready)], env={**os.environ, **lifeline.env()})


def test_closing_the_lifeline_ends_a_watcher(tmp_path: Path) -> None:
    with Lifeline() as lifeline:
        watcher = start_watcher(tmp_path / "ready", lifeline)
        wait_until((tmp_path / "ready").exists)
        assert watcher.poll() is None
    assert watcher.wait(10) == -signal.SIGKILL
    assert not lifeline.path.parent.exists()


def test_a_watcher_that_starts_too_late_ends_at_once(tmp_path: Path) -> None:
    lifeline = Lifeline()
    lifeline.close()
    assert start_watcher(tmp_path / "ready", lifeline).wait(20) == -signal.SIGKILL


def test_a_forked_child_does_not_keep_the_lifeline_alive(tmp_path: Path) -> None:
    lifeline = Lifeline()
    # A child that outlives the close below; it inherits the descriptor unless the fork hook closes it.
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    try:
        watcher = start_watcher(tmp_path / "ready", lifeline)
        wait_until((tmp_path / "ready").exists)
        lifeline.close()
        assert watcher.wait(10) == -signal.SIGKILL
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_nothing_watches_without_a_lifeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIFELINE_VARIABLE, raising=False)
    code = "import threading\nfrom llava_av.processes import watch_lifeline\nwatch_lifeline()\n"
    subprocess.run([sys.executable, "-c", code + "assert threading.active_count() == 1"], check=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_owner_dies_the_whole_tree_dies(tmp_path: Path, number: signal.Signals) -> None:
    pids = tmp_path / "pids"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, "-c", TREE, str(pids)])
    try:
        tree = read_pids(pids)
    finally:
        owner.send_signal(number)
        owner.wait(10)
    wait_until(lambda: all(gone(pid) for pid in tree))


def test_terminating_the_guard_passes_the_signal_and_the_exit_code_on(tmp_path: Path) -> None:
    guard = guarded_popen([sys.executable, "-c", STUBBORN, str(tmp_path / "ready")])
    wait_until((tmp_path / "ready").exists)
    guard.terminate()
    assert guard.wait(20) == 7


def test_without_grace_the_command_is_killed_at_once(tmp_path: Path) -> None:
    guard = guarded_popen([sys.executable, "-c", STUBBORN, str(tmp_path / "ready")], grace_s=0)
    wait_until((tmp_path / "ready").exists)
    guard.terminate()
    assert guard.wait(20) == 128 + signal.SIGKILL


def test_the_exit_code_of_a_killed_command_is_kept() -> None:
    # In its own process, because everything below the calling process is killed.
    code = """
import subprocess, sys
from llava_av.processes.guard import _kill_tree
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
_kill_tree(child)
sys.exit(-child.wait(10))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == signal.SIGKILL


def test_a_process_that_one_search_misses_is_killed() -> None:
    # psutil misses the children of a process that ends between its list of processes and its look at each.
    code = """
import psutil, subprocess, sys
from llava_av.processes.guard import _kill_tree
command = subprocess.Popen([sys.executable, "-c", ""])
command.wait()
orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
search, missed = psutil.Process.children, [[]]
psutil.Process.children = lambda self, recursive: missed.pop() if missed else search(self, recursive)
_kill_tree(command)
sys.exit(orphan.poll() is None)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_command_that_ends_leaves_no_orphan(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    guard = guarded_popen([sys.executable, "-c", TREE, str(pids)])
    root, orphan = read_pids(pids)
    os.kill(root, signal.SIGKILL)
    assert guard.wait(20) == 128 + signal.SIGKILL
    # macOS has no child subreaper: there such an orphan is ended by its own lifeline.
    if sys.platform == "linux":
        assert gone(orphan)
    else:
        os.kill(orphan, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_killing_the_guard_kills_the_command(tmp_path: Path) -> None:
    guard = guarded_popen([sys.executable, "-c", STUBBORN, str(tmp_path / "ready")])
    wait_until((tmp_path / "ready").exists)
    (child,) = psutil.Process(guard.pid).children()
    guard.kill()
    guard.wait(10)
    wait_until(lambda: gone(child.pid))


LEAVING = """
import atexit, threading, time
from llava_av.processes import exit_without_teardown
class Kept:
    def __del__(self):
        print("torn down")
kept = [Kept()]
atexit.register(print, "last")
threading.Thread(target=lambda: (time.sleep(0.2), print("waited for"))).start()
exit_without_teardown(3)
"""


def test_a_process_leaves_without_teardown_but_after_its_threads_and_exit_functions() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "waited for\nlast\n", "")


@pytest.mark.parametrize(("code", "expected"), [("raise SystemExit(3)", 3), ("pass", 0)])
def test_exit_codes_pass_through(code: str, expected: int) -> None:
    assert guarded_popen([sys.executable, "-c", code]).wait(20) == expected


def test_a_command_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        assert guarded_popen([str(tmp_path / "missing")], stderr=log).wait(20) == 127
    assert (tmp_path / "log").read_text().splitlines() == [
        f"cannot start {tmp_path / 'missing'}: No such file or directory"
    ]


def test_signals_are_handled_during_the_block_and_as_before_after_it() -> None:
    def leave(number: int, frame: object) -> None:
        raise InterruptedError(number)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    with pytest.raises(InterruptedError), handling_signals(leave, signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(signal.SIGHUP)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


def test_sigterm_is_kept_as_a_request_and_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def job(run: str, work: Path) -> None:
        with deferring_sigterm() as termination:
            signal.raise_signal(signal.SIGTERM)
            assert (termination.requested, termination.agreed) == (True, False)
        raise TerminatedError("ended by SIGTERM after step 3")

    monkeypatch.setattr(sys, "argv", ["job", "--run", "0123", "--work", str(tmp_path)])
    assert job_main("job", lambda: job) == 143


def test_signals_are_left_alone_in_another_thread() -> None:
    def inside() -> None:
        with handling_signals(lambda number, frame: None, signal.SIGHUP):
            seen.append(signal.getsignal(signal.SIGHUP))

    seen: list[object] = []
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGHUP)]


def test_progress_is_followed_from_its_start_to_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stop = tmp_path / "progress.jsonl", threading.Event()
    monkeypatch.setenv(PROGRESS_VARIABLE, str(path))
    events = follow_progress(path, stop)
    report_progress("data", 1, 2, "first ü")
    assert next(events) == ProgressEvent(step="data", done=1, total=2, note="first ü")
    with path.open("a") as file:
        file.write('{"step": "cut\n[]\n')
    report_progress("data", 2, 2)
    stop.set()
    assert list(events) == [ProgressEvent(step="data", done=2, total=2)]


def test_lines_of_many_threads_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.jsonl"
    monkeypatch.setenv(PROGRESS_VARIABLE, str(path))

    def report_many() -> None:
        for done in range(50):
            report_progress("s", done, 50, "x" * 200)

    threads = [threading.Thread(target=report_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [json.loads(line)["done"] for line in path.read_text().splitlines()]
    assert sorted(seen) == sorted(list(range(50)) * 4)


def test_progress_without_a_file_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(PROGRESS_VARIABLE, raising=False)
    report_progress("data", 1, 2)
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path / "no" / "folder"))
    report_progress("data", 1, 2)
    stop = threading.Event()
    stop.set()
    assert list(follow_progress(tmp_path / "none", stop)) == []


def test_job_reads_its_run_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, seen = tmp_path / "run", []
    file.write_text("0123abcd\n")
    command = ["job", "--run", f"@{file}", "--work", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        assert job_main("job", lambda: lambda run, work: seen.append((run, work))) == 0
        file.unlink()
        with pytest.raises(SystemExit):
            job_main("job", lambda: lambda run, work: None)
    assert seen == [("0123abcd", tmp_path)]
    assert f"{file}: No such file or directory" in capsys.readouterr().err
