"""Log lines and changes are passed on exactly once, however often the connection breaks."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.launch.kubernetes.client import ApiError, Unreachable
from llava_av.launch.kubernetes.pod_logs import Position
from llava_av.launch.kubernetes.watch import Feed

START = datetime(2026, 1, 1, tzinfo=UTC)


def stamped(at_s: float, text: str) -> str:
    return f"{(START + timedelta(seconds=at_s)).strftime('%Y-%m-%dT%H:%M:%S.%f')}789Z {text}"


@given(
    steps_s=st.lists(st.sampled_from([-0.0005, 0.0, 0.001, 0.4, 3.0]), min_size=1, max_size=40),
    breaks=st.lists(st.integers(0, 40), max_size=6),
)
def test_each_line_is_passed_on_once(steps_s: list[float], breaks: list[int]) -> None:
    times = [sum(steps_s[: number + 1]) + 1 for number in range(len(steps_s))]
    log = [stamped(at, f"line {number}") for number, at in enumerate(times)]
    position, passed = Position(), list[str]()
    for until in [*sorted(breaks), len(log)]:
        query = position.begin()
        since = datetime.fromisoformat(query["sinceTime"]) if query else START
        for line in log[:until]:
            if datetime.fromisoformat(line.split()[0][:26] + "+00:00") < since:
                continue
            text = position.take(line)
            if text is not None:
                passed.append(text)
    assert passed == [f"line {number}" for number in range(len(log))]


def test_lines_may_be_empty_or_without_a_stamp() -> None:
    position = Position()
    assert [position.take(line) for line in (stamped(0, ""), "unable to read", stamped(1, "a b"))] == [
        "",
        "unable to read",
        "a b",
    ]


def thing(uid: str, version: int) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "name": uid, "resourceVersion": str(version)}}


class Server:
    """Answers lists and watches from a script, then sets the event that ends the feed."""

    def __init__(self, lists: list[Any], watches: list[Any]) -> None:
        self.lists, self.watches, self.asked = lists, watches, list[str]()
        self.stopped = threading.Event()

    def list(self) -> dict[str, Any]:
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"items": answer, "metadata": {"resourceVersion": "10"}}

    def watch(self, version: str) -> Iterator[dict[str, Any]]:
        self.asked.append(version)
        if not self.watches:
            self.stopped.set()
            return
        for answer in self.watches.pop(0):
            if isinstance(answer, Exception):
                raise answer
            yield answer


def followed(server: Server) -> list[tuple[str | None, str | None]]:
    changes: list[tuple[str | None, str | None]] = []

    def uid(item: dict[str, Any] | None) -> str | None:
        return None if item is None else item["metadata"]["uid"] + item["metadata"]["resourceVersion"]

    Feed(server.list, server.watch, lambda now, before: changes.append((uid(now), uid(before))), print).run(
        server.stopped
    )
    return changes


def test_watch_goes_on_from_the_newest_version() -> None:
    events = [
        {"type": "ADDED", "object": thing("b", 11)},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "15"}}},
    ]
    server = Server([[thing("a", 3)]], [events, [{"type": "DELETED", "object": thing("a", 16)}]])
    assert followed(server) == [("a3", None), ("b11", None), (None, "a16")]
    assert server.asked == ["10", "15", "16"]


@pytest.mark.parametrize(
    "gone",
    [
        {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}},
        ApiError(410, "too old resource version"),
    ],
)
def test_expired_version_is_listed_anew(gone: Any) -> None:
    server = Server([[thing("a", 3), thing("b", 4)], [thing("b", 9)]], [[gone]])
    assert followed(server) == [("a3", None), ("b4", None), (None, "a3"), ("b9", "b4")]


def test_passing_errors_are_tried_again_and_others_are_raised() -> None:
    passing = [Unreachable(0, "refused", transient=True), ApiError(503, "busy", transient=True)]
    server = Server([passing[0], [thing("a", 3)]], [[passing[1]], [ApiError(403, "forbidden")]])
    with pytest.raises(ApiError, match="forbidden"):
        followed(server)
    assert server.asked == ["10", "10"]


def test_nothing_there_is_told() -> None:
    assert followed(Server([[]], [])) == [(None, None)]
