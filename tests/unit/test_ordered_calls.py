"""Ordered calls: results in the order of the items, short calls in the calling thread."""

import threading
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace

import pytest

from llava_av.processes import ordered_calls as module
from llava_av.processes.ordered_calls import ordered_calls

ITEMS = range(3000)


def thread(item: int) -> tuple[int, int]:
    return item, threading.get_ident()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the seconds by which wall time advances while CPU time stands still."""

    def advance_by(seconds: float) -> None:
        times = count(0.0, seconds)
        clocks = SimpleNamespace(perf_counter=lambda: next(times), thread_time=lambda: 0.0)
        monkeypatch.setattr(module, "time", clocks)

    return advance_by


def test_short_calls_run_in_the_calling_thread(clock: Callable[[float], None]) -> None:
    clock(0.0)
    own = threading.get_ident()
    assert list(ordered_calls(thread, ITEMS)) == [(item, own) for item in ITEMS]


def test_long_calls_run_in_threads_beside_short_ones(clock: Callable[[float], None]) -> None:
    clock(0.0)
    found = list(ordered_calls(thread, ITEMS, is_short=lambda item: item % 64 < 32))
    assert [item for item, _ in found] == list(ITEMS)
    own = threading.get_ident()
    assert all(ran != own for item, ran in found if item % 64 >= 32)
    assert {ran for item, ran in found if item % 64 < 32} == {own}


def test_short_calls_that_wait_run_in_threads(clock: Callable[[float], None]) -> None:
    clock(1.0)
    own = threading.get_ident()
    found = list(ordered_calls(thread, ITEMS))
    assert [item for item, _ in found] == list(ITEMS)
    # Eight calls show that they wait, and the next 256 times eight run in threads.
    assert [ran == own for _, ran in found] == [item // 8 % 257 == 0 for item in ITEMS]


def test_a_pause_does_not_mean_that_calls_wait(clock: Callable[[float], None]) -> None:
    clock(0.04)
    own = threading.get_ident()
    found = list(ordered_calls(thread, ITEMS[:16]))
    assert {ran for _, ran in found} == {own}


def test_an_error_comes_after_the_results_before_it() -> None:
    ready = threading.Event()

    def call(item: int) -> int:
        if item < 8:
            assert ready.wait(10)
        elif item == 8:
            ready.set()
            raise ValueError("item 8")
        return item

    results = ordered_calls(call, ITEMS, is_short=lambda item: item >= 8)
    assert [next(results) for _ in range(8)] == list(range(8))
    with pytest.raises(ValueError, match="item 8"):
        next(results)


@pytest.mark.parametrize("is_short", [True, False])
def test_an_error_ends_the_calls(is_short: bool) -> None:
    called: list[int] = []

    def fail(item: int) -> int:
        called.append(item)
        if item == 20:
            raise ValueError("item 20")
        return item

    results = ordered_calls(fail, ITEMS, is_short=lambda item: is_short)
    with pytest.raises(ValueError, match="item 20"):
        list(results)
    assert len(called) < len(ITEMS)


def test_items_are_taken_as_results_are_needed() -> None:
    taken: list[int] = []
    results = ordered_calls(lambda item: item, (taken.append(item) or item for item in ITEMS))
    assert next(results) == 0
    assert len(taken) < 100
    results.close()


def test_closing_ends_calls_that_have_not_started() -> None:
    called: list[int] = []
    results = ordered_calls(lambda item: called.append(item) or item, ITEMS, is_short=lambda item: False)
    assert next(results) == 0
    results.close()
    assert len(called) < len(ITEMS)
