"""Keys from a shared file, and session keys of servers that reject or lack STS."""

import http.server
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_av.storage import StoreError, StoreSettings, read_settings
from llava_av.storage.access_keys import Keys, read_keys, write_keys
from llava_av.storage.store_settings import required_variables
from llava_av.storage.sts import session_keys

FILE = """# Written by hand.
[default]
aws_access_key_id = first-key
aws_secret_access_key=first%secret+/==

[profile two]
region = eu-central-1

[lent]
aws_access_key_id     = lent-key
aws_secret_access_key = lent-secret
aws_session_token     = lent-token
"""
POLICY = {"Version": "2012-10-17", "Statement": []}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.write_text(FILE)
    return path


def settings(file: Path, **more: str) -> StoreSettings:
    variables = {"AWS_ENDPOINT_URL_S3": "http://s3", "AWS_SHARED_CREDENTIALS_FILE": str(file)}
    return read_settings({**variables, **more})


def test_keys_of_a_shared_file_and_its_profiles(file: Path) -> None:
    found = settings(file)
    assert (found.access_key, found.secret_key, found.session_token) == (
        "first-key",
        "first%secret+/==",
        None,
    )
    lent = settings(file, AWS_PROFILE="lent")
    assert (lent.access_key, lent.secret_key, lent.session_token) == ("lent-key", "lent-secret", "lent-token")


def test_keys_in_variables_come_first_and_the_file_before_an_identity(file: Path) -> None:
    given = settings(file, AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s")
    assert (given.access_key, given.session_token) == ("k", None)
    with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY in the environment"):
        settings(file, AWS_ACCESS_KEY_ID="k")
    assert settings(file, AWS_WEB_IDENTITY_TOKEN_FILE="/token").access_key == "first-key"


def test_written_keys_are_read_again_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for keys in (
        Keys(access_key="a", secret_key="b%(c)s", session_token="d=="),
        Keys(access_key="e", secret_key="f"),
    ):
        write_keys(path, keys)
        assert read_keys(path) == keys
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert keys.secret_key not in repr(keys)


@pytest.mark.parametrize(
    ("text", "profile", "said"),
    [
        (None, "", r"cannot be read: No such file"),
        (FILE, "other", r"has no aws_access_key_id and aws_secret_access_key under \[other\]"),
        ("[default]\naws_access_key_id = a\n", "", r"has no .* under \[default\]"),
        ("lonely-secret\n", "", r"is not in the format of AWS's shared credentials: begin with \[default\]"),
        (b"\xff\xfe", "", r"is not in the format of AWS's shared credentials"),
    ],
)
def test_a_file_without_keys_is_one_line(
    tmp_path: Path, text: str | bytes | None, profile: str, said: str
) -> None:
    path = tmp_path / "credentials"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StoreError, match=f"AWS_SHARED_CREDENTIALS_FILE={path} {said}") as told:
        settings(path, AWS_PROFILE=profile)
    assert "\n" not in str(told.value)
    assert "lonely" not in str(told.value)


def test_a_shared_file_names_no_server_by_itself(file: Path) -> None:
    assert required_variables({"AWS_SHARED_CREDENTIALS_FILE": str(file)}) == ("AWS_ENDPOINT_URL_S3",)
    assert len(required_variables({})) == 3


class _Sts(http.server.BaseHTTPRequestHandler):
    """Server with a configured answer to every request."""

    status: int
    body: bytes
    asked: int

    def do_POST(self) -> None:
        type(self).asked += 1
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def sts() -> Iterator[tuple[type[_Sts], StoreSettings]]:
    handler = type("Handler", (_Sts,), {"asked": 0})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{running.server_address[1]}"
        yield handler, StoreSettings(endpoint=endpoint, access_key="k", secret_key="s", retry_s=0.5)
        running.shutdown()


NO_STS = "has no STS .*: set session_credentials to false in the job profile, or use a server that has one"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (405, b"", NO_STS),
        (501, b"<Error><Code>NotImplemented</Code><Message>no</Message></Error>", "NotImplemented: no"),
        (200, b"<html>welcome</html>", NO_STS),
        (
            400,
            b"<ErrorResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><Error><Code>InvalidParameterValue"
            b"</Code><Message>invalid token expiry</Message></Error></ErrorResponse>",
            "InvalidParameterValue: invalid token expiry.*: set a shorter deadline_s",
        ),
        (403, b"no", r"refused session keys \(HTTP 403\): check the keys of S3"),
        (
            503,
            b"<Error><Code>ServiceUnavailable</Code></Error>",
            "ServiceUnavailable.*session_credentials to false",
        ),
    ],
)
def test_servers_without_session_keys_are_one_line(
    sts: tuple[type[_Sts], StoreSettings], status: int, body: bytes, said: str
) -> None:
    handler, given = sts
    handler.status, handler.body = status, body
    with pytest.raises(StoreError, match=said) as told:
        session_keys(given, POLICY, 60)
    assert "\n" not in str(told.value)
    assert (handler.asked > 1) == (status == 503)


def test_an_identity_gives_no_session_keys() -> None:
    with pytest.raises(StoreError, match="need AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        session_keys(StoreSettings(endpoint="http://s3", access_key=None, secret_key=None), POLICY, 60)
