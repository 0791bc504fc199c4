"""Requests to a Kubeflow Pipelines backend, and the handling of its answers and of other servers' answers."""

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from pipelines import backend
from pipelines.backend import Backend, BackendError, Uploaded
from pipelines.pipeline import version_of

GOLDEN = Path(__file__).parent / "golden" / "pipeline.yaml"
API = "/apis/v2beta1"
UNKNOWN = (404, {"code": 5, "message": "Run r not found"})
Answers = dict[str, Any]


@pytest.fixture
def answers() -> Answers:
    """Return the server's answers by method and path: a status and a body, or several in order."""
    return {f"GET {API}/healthz": (200, {"multi_user": False})}


@pytest.fixture
def asked() -> list[str]:
    """Return the requests to the server."""
    return []


@pytest.fixture
def sent() -> dict[str, str]:
    """Return the last body of each method and path."""
    return {}


@pytest.fixture
def endpoint(answers: Answers, asked: list[str], sent: dict[str, str]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent[f"{self.command} {path}"] = body.decode(errors="replace")
            asked.append(f"{self.command} {self.path}")
            found = answers.get(f"{self.command} {path}", (404, "<html>no such page</html>"))
            status, body = found.pop(0) if isinstance(found, list) else found
            text = body if isinstance(body, str) else json.dumps(body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_DELETE = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def run(state: str, **tasks: str) -> dict[str, Any]:
    details = [
        {"display_name": name, "state": at, "create_time": f"2026-01-01T00:00:0{place}Z"}
        for place, (name, at) in enumerate(tasks.items())
    ]
    return {"run_id": "r", "state": state, "run_details": {"task_details": details}}


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        ((200, run("SUCCEEDED")), True),
        ((200, run("FAILED")), True),
        ((200, run("RUNNING")), False),
        ((200, run("CANCELING")), False),
        ((200, "<html>state your name</html>"), False),
        (UNKNOWN, True),
    ],
)
def test_a_run_has_ended(endpoint: str, answers: Answers, answer: Any, ended: bool) -> None:
    answers[f"GET {API}/runs/r"] = answer
    assert Backend(endpoint).has_ended("r") is ended


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((404, "<html>no such page</html>"), "HTTP 404.*--endpoint"),
        ((500, {"code": 13, "message": "database is away"}), "database is away"),
        ((401, {}), "HTTP 401.* set KFP_TOKEN"),
    ],
)
def test_what_cannot_be_asked_has_not_ended(
    endpoint: str, answers: Answers, answer: Any, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers[f"GET {API}/runs/r"] = answer
    deleted: list[str] = []
    monkeypatch.setattr(backend, "pipeline_runs_with_jobs", lambda namespace: {"r"})
    monkeypatch.setattr(backend, "delete_jobs", lambda namespace, pipeline_run: deleted.append(pipeline_run))
    with pytest.raises(BackendError) as caught:
        Backend(endpoint).delete_orphaned_jobs("jobs")
    assert re.search(problem, str(caught.value))
    assert not deleted


def test_jobs_of_ended_runs_alone_are_reaped(
    endpoint: str, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers[f"GET {API}/runs/over"] = UNKNOWN
    answers[f"GET {API}/runs/on"] = (200, run("RUNNING"))
    monkeypatch.setattr(backend, "pipeline_runs_with_jobs", lambda namespace: {"over", "on"})
    monkeypatch.setattr(
        backend, "delete_jobs", lambda namespace, pipeline_run: [f"{namespace}/{pipeline_run}"]
    )
    assert Backend(endpoint).delete_orphaned_jobs("jobs") == ["jobs/over"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((404, "<html>hello</html>"), "check --endpoint"),
        ((401, "<html>hello</html>"), "KFP_TOKEN"),
        ((200, "<html>hello</html>"), "check --endpoint"),
        ((200, {"status": "ok"}), "check --endpoint"),
        ((200, {"apiServerReady": False}), "check --endpoint"),
    ],
)
def test_another_server_is_told_at_once(
    endpoint: str, answers: Answers, asked: list[str], answer: Any, problem: str
) -> None:
    answers[f"GET {API}/healthz"] = answer
    for namespace in (None, "team"):
        with pytest.raises(BackendError, match=problem):
            Backend(endpoint, namespace=namespace)
    assert len(asked) == 2


def test_an_address_says_how_to_speak_to_it() -> None:
    with pytest.raises(BackendError, match=r"^--endpoint ml-pipeline:8888 .*http://"):
        Backend("ml-pipeline:8888")


@pytest.fixture
def pipelines(answers: Answers) -> Callable[..., None]:
    """Lets the server know pipelines, and versions of the one that has the id p."""

    def set_known(known: list[str], versions: list[str]) -> None:
        listed = [{"pipeline_id": one, "display_name": "llava-av"} for one in known]
        named = [{"pipeline_version_id": f"v-{name}", "display_name": name} for name in versions]
        answers[f"GET {API}/pipelines"] = (200, {"pipelines": listed} if listed else {})
        answers[f"GET {API}/pipelines/p/versions"] = (200, {"pipeline_versions": named})
        answers[f"POST {API}/pipelines"] = (200, {"pipeline_id": "p"})
        answers[f"POST {API}/pipelines/upload_version"] = (200, {"pipeline_version_id": "v-new"})

    return set_known


def test_a_version_is_uploaded_once(endpoint: str, asked: list[str], pipelines: Callable[..., None]) -> None:
    version = version_of(GOLDEN)
    pipelines(["p"], ["another"])
    assert Backend(endpoint).upload(GOLDEN).version_id == "v-new"
    pipelines(["p"], ["another", version])
    assert Backend(endpoint).upload(GOLDEN).version_id == f"v-{version}"
    uploads = [one.partition("?")[0] for one in asked if one.startswith("POST")]
    assert uploads == [f"POST {API}/pipelines/upload_version"]


def test_a_new_backend_gets_the_pipeline_with_one_version(
    endpoint: str, asked: list[str], pipelines: Callable[..., None]
) -> None:
    pipelines([], [])
    uploaded = Backend(endpoint).upload(GOLDEN)
    assert (uploaded.pipeline_id, uploaded.version_id) == ("p", "v-new")
    made = [one.partition("?")[0] for one in asked if one.startswith("POST")]
    assert made == [f"POST {API}/pipelines", f"POST {API}/pipelines/upload_version"]


@pytest.mark.parametrize("namespace", [None, "team"])
def test_the_pipeline_is_that_of_the_namespace(
    endpoint: str,
    asked: list[str],
    sent: dict[str, str],
    pipelines: Callable[..., None],
    namespace: str | None,
) -> None:
    pipelines([], [])
    Backend(endpoint, namespace=namespace).upload(GOLDEN)
    (looked,) = (line for line in asked if line.startswith(f"GET {API}/pipelines?"))
    assert parse_qs(looked.partition("?")[2]).get("namespace") == (namespace and [namespace])
    assert json.loads(sent[f"POST {API}/pipelines"]).get("namespace") == namespace


@pytest.fixture
def schedules(answers: Answers) -> None:
    """Answer with the recurring runs of group g, one per page."""
    known = [
        {"recurring_run_id": "old", "display_name": "nightly"},
        {"recurring_run_id": "other", "display_name": "weekly"},
        {"recurring_run_id": "older", "display_name": "nightly"},
    ]
    answers[f"GET {API}/experiments"] = (
        200,
        {"experiments": [{"experiment_id": "g", "display_name": "team"}]},
    )
    pages = [{"recurringRuns": [one], "next_page_token": str(place)} for place, one in enumerate(known)]
    answers[f"GET {API}/recurringruns"] = [(200, page) for page in [*pages, {}]]
    answers[f"POST {API}/recurringruns"] = (200, {"recurring_run_id": "new"})
    for one in known:
        answers[f"POST {API}/recurringruns/{one['recurring_run_id']}:disable"] = (200, {})
        answers[f"DELETE {API}/recurringruns/{one['recurring_run_id']}"] = (200, {})
    answers[f"GET {API}/runs"] = (200, {"runs": [{"recurring_run_id": "old", "state": "SUCCEEDED"}]})


@pytest.mark.usefixtures("schedules")
def test_a_schedule_replaces_those_of_its_name(endpoint: str, asked: list[str]) -> None:
    uploaded = Uploaded(pipeline_id="p", version_id="v", version="1")
    made = Backend(endpoint).schedule(uploaded, {}, group="team", name="nightly", cron="0 0 2 * * *")
    assert made == "new"
    changed = [one.partition("?")[0] for one in asked if not one.startswith("GET")]
    # The new one is there before the old ones go: a refused one leaves what runs.
    assert changed == [
        f"POST {API}/recurringruns",
        f"POST {API}/recurringruns/old:disable",
        f"DELETE {API}/recurringruns/old",
        f"POST {API}/recurringruns/older:disable",
        f"DELETE {API}/recurringruns/older",
    ]


@pytest.mark.usefixtures("schedules")
def test_a_schedule_whose_run_goes_on_is_switched_off_alone(
    endpoint: str, asked: list[str], answers: Answers
) -> None:
    of_others = {"runs": [{"recurring_run_id": "other", "state": "RUNNING"}], "next_page_token": "1"}
    newest = {"recurring_run_id": "old", "state": "RUNNING"}
    earlier = {"recurring_run_id": "old", "state": "SUCCEEDED"}
    pages = [of_others, {"runs": [newest, earlier]}]
    answers[f"GET {API}/runs"] = [(200, page) for page in [*pages, *pages]]
    uploaded = Uploaded(pipeline_id="p", version_id="v", version="1")
    Backend(endpoint).schedule(uploaded, {}, group="team", name="nightly", cron="0 0 2 * * *")
    assert f"POST {API}/recurringruns/old:disable" in asked
    assert [one for one in asked if one.startswith("DELETE")] == [f"DELETE {API}/recurringruns/older"]


@pytest.mark.usefixtures("schedules")
def test_a_refused_schedule_leaves_the_old_one(endpoint: str, asked: list[str], answers: Answers) -> None:
    answers[f"POST {API}/recurringruns"] = (400, {"code": 3, "message": "cron: expected 6 fields"})
    uploaded = Uploaded(pipeline_id="p", version_id="v", version="1")
    with pytest.raises(BackendError, match="expected 6 fields"):
        Backend(endpoint).schedule(uploaded, {}, group="team", name="nightly", cron="daily")
    assert not [one for one in asked if one.startswith("DELETE")]


def test_two_pipelines_of_the_name_are_one_line(endpoint: str, pipelines: Callable[..., None]) -> None:
    pipelines(["p", "q"], [])
    with pytest.raises(BackendError, match=r"^2 pipelines at .* llava-av: rename or delete"):
        Backend(endpoint).upload(GOLDEN)


def test_a_run_is_followed_through_an_outage(
    endpoint: str, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.time, "sleep", lambda pause_s: None)
    answers[f"GET {API}/runs/r"] = [
        (200, run("RUNNING", data="RUNNING")),
        (503, {"code": 14, "message": "away"}),
        (200, run("RUNNING", data="SUCCEEDED", train="RUNNING")),
        (200, run("FAILED", data="SUCCEEDED", train="FAILED", executor="FAILED")),
    ]
    lines: list[str] = []
    ended = Backend(endpoint).follow("r", lines.append)
    assert (ended.state, ended.failed) == ("FAILED", ("train",))
    assert [line.split() for line in lines] == [
        ["data", "running"],
        ["data", "succeeded"],
        ["train", "running"],
        ["train", "failed"],
    ]
