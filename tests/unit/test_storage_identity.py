"""Cloud identities and temporary keys, as an S3 server receives them."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_av.storage import ObjectStore, StoreError
from llava_av.storage.store_settings import read_settings

STS_ANSWER = b"""<?xml version="1.0"?>
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>lent-key</AccessKeyId>
<SecretAccessKey>lent-secret</SecretAccessKey><SessionToken>lent-token</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


class Server(http.server.BaseHTTPRequestHandler):
    """Server that answers POST like STS and GET with an object, and records requests."""

    asked: list[str]
    signed: list[tuple[str, str]]

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.asked.append(self.path + self.rfile.read(length).decode())
        self._answer(STS_ANSWER)

    def do_GET(self) -> None:
        token = self.headers.get("X-Amz-Security-Token", "")
        self.signed.append((self.headers["Authorization"], token))
        self._answer(b'{"answer": 42}')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Server], str]]:
    handler = type("Handler", (Server,), {"asked": [], "signed": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_an_identity_stands_for_keys(
    server: tuple[type[Server], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, endpoint = server
    (tmp_path / "token").write_text("of-the-pod")
    variables = {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ENDPOINT_URL_STS": endpoint,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/trainer",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert ObjectStore.from_env().get_json("key") == {"answer": 42}
    assert "of-the-pod" in handler.asked[0]
    [(authorization, token)] = handler.signed
    assert "Credential=lent-key/" in authorization
    assert token == "lent-token"


def test_keys_may_come_with_a_session_token(server: tuple[type[Server], str]) -> None:
    handler, endpoint = server
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "for-an-hour"}
    store = ObjectStore.from_env({"AWS_ENDPOINT_URL_S3": endpoint, **keys})
    assert store.get_json("key") == {"answer": 42}
    assert [token for _, token in handler.signed] == ["for-an-hour"]
    assert "for-an-hour" not in repr(store.settings)


def test_an_identity_does_not_excuse_half_of_the_keys() -> None:
    half = {"AWS_ENDPOINT_URL_S3": "http://s3", "AWS_WEB_IDENTITY_TOKEN_FILE": "x", "AWS_ACCESS_KEY_ID": "k"}
    with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY in the environment"):
        read_settings(half)
