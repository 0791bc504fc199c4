"""Retried failures, retry times and side effects, against a scripted server."""

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llava_av.processes import STORE_RETRY_VARIABLE, job_main
from llava_av.storage import ObjectMissing, ObjectStore, StoreError, StoreSettings, read_settings
from llava_av.storage.retrying import retry
from tests.unit.test_storage_store_errors import WHOLE

Answer = tuple[int, bytes, dict[str, str]]


def failure(code: str, status: int = 400, **headers: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>".encode()
    return status, body, {"Content-Type": "application/xml", **headers}


class Scripted(BaseHTTPRequestHandler):
    """Script of a server's answers, of which the last one repeats."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        script: list[Answer] = self.server.script  # type: ignore[attr-defined]
        self.server.asked.append(f"{self.command} {self.path}")  # type: ignore[attr-defined]
        status, body, headers = script.pop(0) if len(script) > 1 else script[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        server.daemon_threads = True
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def store(server: Any, retry_s: float = 60.0) -> ObjectStore:
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    keys = {"access_key": "k", "secret_key": "s"}
    return ObjectStore(StoreSettings(endpoint=endpoint, **keys, bucket="bucket", retry_s=retry_s))


OPERATIONS: tuple[Callable[[ObjectStore], object], ...] = (
    lambda store: store.put_bytes("key", b"1"),
    lambda store: store.create("key", b"1"),
    lambda store: store.get_bytes("key"),
    lambda store: list(store.list("key")),
    lambda store: store.delete("key"),
)


@pytest.mark.parametrize(
    "answer",
    [
        failure("AccessDenied", 403),
        failure("SignatureDoesNotMatch", 403),
        failure("InvalidAccessKeyId", 403),
        failure("RequestTimeTooSkewed", 403),
        failure("NoSuchBucket", 404),
        failure("NotImplemented", 501),
        failure("XMinioStorageFull", 507),
        (404, b"<html>no</html>", {"Content-Type": "text/html"}),
    ],
    ids=lambda answer: re.sub(r"\W+", "-", answer[1].decode()),
)
def test_permanent_failures_are_not_retried(server: Any, answer: Answer) -> None:
    server.script = [answer]
    for operation in OPERATIONS:
        server.asked.clear()
        with pytest.raises(StoreError):
            operation(store(server))
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        failure("InternalError", 500),
        failure("SlowDown", 503),
        failure("RequestTimeout", 400),
        failure("BadDigest", 400),
        failure("ConditionalRequestConflict", 409),
        failure("TooManyRequests", 429),
        failure("InternalError", 200),
        (502, b"<html>bad gateway</html>", {"Content-Type": "text/html"}),
        (504, b"", {}),
    ],
    ids=lambda answer: f"{answer[0]}-{answer[1][22:60]!r}",
)
def test_transient_failures_are_retried_for_every_method(server: Any, answer: Answer) -> None:
    for operation in OPERATIONS[:2]:
        server.script = [answer, answer, (200, b"", {})]
        server.asked.clear()
        operation(store(server))
        assert len(server.asked) == 3


def test_a_failure_names_the_key_the_attempts_and_the_time(server: Any) -> None:
    server.script = [failure("InternalError", 500)]
    for operation in OPERATIONS:
        with pytest.raises(StoreError, match=r"^s3://bucket/key: .*\(\d+ attempts in \d s\)$") as caught:
            operation(store(server, retry_s=0.3))
        assert caught.value.transient


def test_the_servers_retry_after_is_obeyed(server: Any) -> None:
    server.script = [failure("SlowDown", 503, **{"Retry-After": "2"}), (200, b"", {})]
    began = time.monotonic()
    store(server).put_bytes("key", b"1")
    assert time.monotonic() - began >= 2


def test_without_retry_time_there_is_one_attempt(server: Any) -> None:
    server.script = [failure("InternalError", 500)]
    with pytest.raises(StoreError, match="failed"):
        store(server, retry_s=0).put_bytes("key", b"1")
    assert len(server.asked) == 1


def test_a_failure_longer_than_the_retry_time_is_retried_once() -> None:
    attempts = []

    def operation() -> None:
        attempts.append(1)
        time.sleep(0.05)
        raise StoreError("away", transient=True)

    with pytest.raises(StoreError, match=r"away \(2 attempts"):
        retry(operation, 0.01)
    assert len(attempts) == 2


def test_pauses_leave_the_random_state_of_a_training_alone(server: Any) -> None:
    before = random.getstate()
    server.script = [failure("InternalError", 500), failure("InternalError", 500), (200, b"", {})]
    store(server).put_bytes("key", b"1")
    assert random.getstate() == before


def test_content_that_does_not_match_its_tag_is_read_again(server: Any) -> None:
    tag = {"ETag": '"0cc175b9c0f1b6a831c399e269772661"'}
    server.script = [(200, b"b", tag), (200, b"a", tag)]
    assert store(server).get_bytes("key") == b"a"
    server.script = [(200, b"b", tag)]
    with pytest.raises(StoreError, match=r"^s3://bucket/key: .*does not match its entity tag"):
        store(server, retry_s=0.1).get_bytes("key")


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"0cc175b9c0f1b6a831c399e269772661-2"'},
        {"ETag": '"0cc175b9c0f1b6a831c399e269772661"', "x-amz-server-side-encryption": "aws:kms"},
        {
            "ETag": '"0cc175b9c0f1b6a831c399e269772661"',
            "x-amz-server-side-encryption-customer-algorithm": "AES256",
        },
        {},
    ],
)
def test_a_tag_that_is_no_digest_is_not_compared(server: Any, headers: dict[str, str]) -> None:
    server.script = [(200, b"b", headers)]
    assert store(server).get_bytes("key") == b"b"


def test_truncated_or_damaged_lists_are_requested_again(server: Any) -> None:
    item = '<Contents><Key>key/1</Key><Size>{}</Size><ETag>"t"</ETag></Contents>'
    xml = {"Content-Type": "application/xml"}

    def listing(size: str) -> bytes:
        head = "<Name>bucket</Name><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{head}{item.format(size)}</ListBucketResult>".encode()

    server.script = [(200, listing("3")[:90], xml), (200, listing("x"), xml), (200, listing("3"), xml)]
    assert [(info.key, info.size) for info in store(server).list("key")] == [("key/1", 3)]
    assert len(server.asked) == 3


XML = {"Content-Type": "application/xml"}
NO_UPLOADS = (200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>", XML)
BEGUN = (200, b"<R><UploadId>u</UploadId></R>", XML)
COMPLETED = (200, b"<R><ETag>t</ETag></R>", XML)
PART = (200, b"", {"ETag": '"t"'})


def test_an_upload_that_fails_while_it_is_completed_is_completed_again(server: Any, tmp_path: Path) -> None:
    server.script = [NO_UPLOADS, BEGUN, PART, PART, failure("InternalError", 200), COMPLETED]
    (tmp_path / "file").write_bytes(bytes(9 << 20))
    store(server).put_file("key", tmp_path / "file")
    assert [line.split()[0] for line in server.asked] == ["GET", "POST", "PUT", "PUT", "POST", "POST"]


@pytest.mark.parametrize("answer", [failure("AccessDenied", 403), failure("NotImplemented", 501)])
def test_an_upload_does_not_need_the_list_of_others(server: Any, tmp_path: Path, answer: Answer) -> None:
    server.script = [answer, BEGUN, PART, PART, COMPLETED]
    (tmp_path / "file").write_bytes(bytes(9 << 20))
    store(server).put_file("key", tmp_path / "file")
    assert [line.split()[0] for line in server.asked] == ["GET", "POST", "PUT", "PUT", "POST"]


def test_a_lost_upload_is_sent_once_more(server: Any, tmp_path: Path) -> None:
    gone, aborted = failure("NoSuchUpload", 404), (204, b"", {})
    sent = [BEGUN, PART, PART]
    server.script = [NO_UPLOADS, *sent, gone, aborted, *sent, COMPLETED]
    (tmp_path / "file").write_bytes(bytes(9 << 20))
    store(server).put_file("key", tmp_path / "file")
    assert len(server.asked) == 10
    server.script = [NO_UPLOADS, *sent, gone, aborted, *sent, gone, aborted]
    with pytest.raises(StoreError, match=r"the upload of s3://bucket/key to .* was aborted elsewhere"):
        store(server).put_file("key", tmp_path / "file")


def test_a_missing_object_is_not_retried(server: Any) -> None:
    server.script = [failure("NoSuchKey", 404)]
    with pytest.raises(ObjectMissing):
        store(server).get_bytes("key")
    store(server).delete("key")
    assert len(server.asked) == 2


@pytest.mark.parametrize("name", [STORE_RETRY_VARIABLE, "LLAVA_AV_S3_STALL_S"])
@pytest.mark.parametrize("value", ["-1", "x", "nan", "inf"])
def test_an_invalid_time_is_named(name: str, value: str) -> None:
    with pytest.raises(StoreError, match=f"{name}='{value}' must be a number of seconds"):
        read_settings({**WHOLE, name: value})


def test_times_are_read_from_the_environment() -> None:
    assert read_settings(WHOLE).retry_s == 10
    given = read_settings({**WHOLE, STORE_RETRY_VARIABLE: "0", "LLAVA_AV_S3_STALL_S": "2.5"})
    assert (given.retry_s, given.stall_s) == (0, 2.5)


@pytest.mark.parametrize(("given", "found"), [("", 300), ("7", 7)])
def test_a_job_waits_minutes_unless_its_environment_says_otherwise(
    given: str, found: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORE_RETRY_VARIABLE, given)
    monkeypatch.setattr("sys.argv", ["job", "--run", "r", "--work", "w"])
    seen: list[float] = []

    def job(run: str, work: Path) -> None:
        seen.append(read_settings({**WHOLE, STORE_RETRY_VARIABLE: os.environ[STORE_RETRY_VARIABLE]}).retry_s)

    assert job_main("job", lambda: job) == 0
    assert seen == [found]
    assert os.environ[STORE_RETRY_VARIABLE] == given


@pytest.mark.parametrize("bucket", ["a", "a..b", "1.2.3.4", "a b"])
def test_an_invalid_bucket_name_is_refused(bucket: str) -> None:
    with pytest.raises(StoreError, match=f"LLAVA_AV_BUCKET={re.escape(bucket)} is not the name of a bucket"):
        read_settings({**WHOLE, "LLAVA_AV_BUCKET": bucket})
