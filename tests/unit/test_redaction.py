"""No secret in any form reaches text that is shown or stored."""

import atexit
import base64
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.errors import UserError
from llava_av.redaction import redact, redact_output, without_password
from llava_av.storage import StoreError, StoreSettings

MARK = "hunter2-Zk9/pq+x"
SIGNED = (
    "/bucket/key?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20260101&X-Amz-Expires=900"
    f"&X-Amz-Security-Token={quote(MARK, safe='')}&X-Amz-Signature=0123abcd"
)


@pytest.fixture(autouse=True)
def _no_secrets_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().endswith(("TOKEN", "SECRET", "PASSWORD", "KEY")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET http://me:secret@mlflow.example:5000/api failed", "GET http://mlflow.example:5000/api failed"),
        ("https://ghp_0123@github.com/a/b.git", "https://github.com/a/b.git"),
        ("see 'http://me:p@ss@host/x' and http://you:pw@host", "see 'http://host/x' and http://host"),
        ("http://me:%70ass@[::1]:5000/", "http://[::1]:5000/"),
        ("postgresql://mlflow:pw@db/mlflow?x=a@b", "postgresql://db/mlflow?x=a@b"),
        ("s3://bucket/runs/a@b and mail me@example.org", "s3://bucket/runs/a@b and mail me@example.org"),
        ("http://host:9000/path@2x.png", "http://host:9000/path@2x.png"),
        ("at http://me:se/cr?e#t@host:9000/x: refused", "at http://host:9000/x: refused"),
        ("'postgresql://me:%2Fa%23b@db/x'", "'postgresql://db/x'"),
        ("http://[fe80::1]/a@b and http://host:80?x=a@b", "http://[fe80::1]/a@b and http://host:80?x=a@b"),
        ("?X-Amz-Signature=0123abcd&x=1", "?X-Amz-Signature=***&x=1"),
        ("/k?X-Amz-Security-Token=FwoG%2F&y=2)", "/k?X-Amz-Security-Token=***&y=2)"),
        (
            "Credential=AKID/x, SignedHeaders=host, Signature=0123abcd",
            "Credential=AKID/x, SignedHeaders=host, Signature=***",
        ),
        ("{'Authorization': 'Basic bWU6c2VjcmV0'}", "{'Authorization': 'Basic ***'}"),
        ('{"Proxy-Authorization": b"Bearer abc.def"}', '{"Proxy-Authorization": b"Bearer ***"}'),
        ("authorization: bearer abc", "authorization: bearer ***"),
        ("GET /x?access_token=abc&v=1", "GET /x?access_token=***&v=1"),
        ("loss 0.5, tokens=12, 3 tokens a second", "loss 0.5, tokens=12, 3 tokens a second"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
    ],
)
def test_secrets_are_known_by_their_form(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "HF_TOKEN",
    ],
)
def test_secrets_of_the_environment_are_known_by_their_value(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, MARK)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    for form in (MARK, quote(MARK, safe=""), json.dumps(MARK), base64.b64encode(MARK.encode()).decode()):
        assert redact(f"said {form}.").startswith("said ")
        assert form.strip('"') not in redact(f"said {form}.")
    if name == "MLFLOW_TRACKING_PASSWORD":
        assert base64.b64encode(f"me:{MARK}".encode()).decode() not in redact(
            base64.b64encode(f"me:{MARK}".encode()).decode()
        )


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3", "HTTPS_PROXY", "http_proxy"])
@pytest.mark.parametrize("password", ["hunter2-mark", "hunter2/mark", "hunter2@mark", "hunter2%2Fmark"])
def test_passwords_of_addresses_are_known_beside_them(
    name: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"http://somebody:{password}@host:5000/store")
    for said in (password, f"somebody:{password}@host:5000", f"http://somebody:{password}@host:5000/store"):
        assert password not in redact(f"cannot reach {said}")
    assert redact("host:5000 and somebody else") == "host:5000 and somebody else"


def test_what_only_looks_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "disabled")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "")
    monkeypatch.setenv("HF_TOKEN", "short")
    monkeypatch.setenv("DOCS", "https://host/page@section")
    text = "disabled /var/run/token short https://host/page@section host/page"
    assert redact(text) == text


@given(st.text(min_size=1))
def test_any_password_is_hidden_and_the_rest_is_kept(password: str) -> None:
    # Whatever a library makes of it: as it is, or quoted as an address has to have it.
    quoted = quote(password, safe="")
    assert redact(f"before http://user:{quoted}@host/after") == "before http://host/after"


def test_an_error_for_users_is_redacted_when_it_is_made() -> None:
    error = UserError("cannot reach http://me:secret@host: HTTPConnectionPool", 3)
    assert "secret" not in str(error) + repr(error)
    refused = pytest.raises(StoreError, match=r"AWS_ENDPOINT_URL_S3=http://host must not have a user")
    with refused as caught:
        StoreSettings(endpoint="http://me:secret@host", access_key="a", secret_key="b")
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://mlflow.example/a@b", "https://mlflow.example/a@b"),
        ("http://me:se/cret@127.0.0.1:5000/x", "http://127.0.0.1:5000/x"),
        ("sqlite:///x.db", "sqlite:///x.db"),
        ("nothing", "nothing"),
    ],
)
def test_an_address_is_shown_without_its_login(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def printed(pieces: Iterable[str]) -> str:
    """Return what reaches standard output if a process prints these pieces and ends."""
    released: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as written:
        patch.setattr(sys, "stdout", written)
        patch.setattr(sys, "stderr", None)
        patch.setattr(atexit, "register", released.append)
        redact_output()
        for piece in pieces:
            print(piece, end="", flush=True)
        for release in released:
            release()
        return written.getvalue()


@given(st.lists(st.integers(0, 40), max_size=5), st.booleans())
def test_a_secret_in_several_writes_is_hidden_and_the_rest_arrives(cuts: list[int], ends: bool) -> None:
    said = f"ab {MARK} hunter2 {MARK[:9]}" + ("\n" if ends else "")
    pieces = [said[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(said)])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", MARK)
        shown = printed(pieces)
    assert shown == said.replace(MARK, "***")


@pytest.mark.parametrize(
    "said",
    [
        f"at http://me:{MARK}@host/path now",
        f"at postgresql://me:{MARK}@host/path",
        f"'Authorization': 'Bearer {MARK}', next",
        f"get https://host/key?X-Amz-Signature={MARK}&more=1 again\n",
    ],
)
def test_a_secret_of_a_known_form_is_hidden_wherever_it_is_cut(said: str) -> None:
    whole = redact(said)
    assert MARK not in whole
    for cut in range(1, len(said)):
        pieces = said[:cut], said[cut:]
        assert printed(pieces) == whole, pieces


def test_a_line_that_ends_with_an_address_arrives_at_once() -> None:
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as written:
        patch.setattr(sys, "stdout", written)
        patch.setattr(sys, "stderr", None)
        patch.setattr(atexit, "register", lambda release: None)
        redact_output()
        line = "training goes on from s3://bucket/checkpoints/step-00000009\n"
        print(line, end="")
        assert written.getvalue() == line


def test_an_address_that_never_ends_is_not_held_back_forever() -> None:
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as written:
        patch.setattr(sys, "stdout", written)
        patch.setattr(sys, "stderr", None)
        patch.setattr(atexit, "register", lambda release: None)
        redact_output()
        for _ in range(100):
            print("data://" + "x" * 100, end="")
        assert len(written.getvalue()) > 5_000


SCRIPT = """
import logging, sys, threading, warnings
from llava_av.redaction import redact_output
redact_output(); redact_output()
address, request = sys.stdin.read().split()
print("address", address, request, flush=True)
sys.stdout.writelines([address, "\\n"])
logging.getLogger("urllib3").warning("Retrying after connection broken: %s", request)
warnings.warn("proxy " + address)
def fail(): raise RuntimeError(address + request)
thread = threading.Thread(target=fail); thread.start(); thread.join()
fail()
"""


def test_all_that_a_process_writes_is_redacted() -> None:
    environment = {**os.environ, "AWS_SESSION_TOKEN": MARK}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        input=f"http://me:{MARK}@host {SIGNED}",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout.startswith("address http://host /bucket/key?X-Amz-Algorithm")
    assert "Retrying after connection broken: /bucket/key?X-Amz-Algorithm" in done.stderr
    assert "UserWarning: proxy http://host" in done.stderr
    assert done.stderr.count("RuntimeError: http://host/bucket/key") == 2
    for text in (done.stdout, done.stderr):
        assert not any(form in text for form in (MARK, quote(MARK, safe=""), "0123abcd"))
