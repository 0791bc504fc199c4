"""What the server refuses before a model sees it, through the whole application without a network."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from llava_av.errors import UserError
from llava_av.serving.api_keys import ApiKeys
from llava_av.serving.app import build_app
from llava_av.serving.current_model import CurrentModel
from llava_av.serving.engine import EngineEndedError
from llava_av.serving.limits import ServingLimits
from llava_av.serving.media_fetcher import MediaFetcher
from llava_av.serving.media_hosts import MediaHosts
from llava_av.serving.served_model import ModelIdentity, ServedModel
from llava_av.serving.slot_engine import SlotEngine
from tests.media_samples import write_image
from tests.model_samples import image, tiny_model

KEY = "0123456789abcdef"
PATH = "/v1/chat/completions"
LIMITS = ServingLimits(batch=1, queued=0, body_bytes=4_096, body_s=0.2, decode_workers=1)
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "What?"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def current(parts) -> Iterator[CurrentModel]:
    model, processor = parts
    identity = ModelIdentity(name="tiny", version="3", digest="d" * 64)
    engine = SlotEngine(model, processor, slots=1, context=512)
    made = CurrentModel(ServedModel(identity, processor, engine, LIMITS))
    yield made
    made.close()


def call(current: CurrentModel, *calls: dict, keys: ApiKeys | None = None, **limits) -> list[httpx2.Response]:
    """Return the answers to requests that are sent at once."""

    async def all_calls() -> list[httpx2.Response]:
        changed = LIMITS.model_copy(update=limits)
        fetcher = MediaFetcher(MediaHosts(), changed)
        app = build_app(current, limits=changed, keys=keys, fetcher=fetcher)
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(
                *(client.request(**{"method": "POST", "url": PATH, **one}) for one in calls)
            )

    return asyncio.run(all_calls())


def keys_of(folder: Path, *keys: str) -> ApiKeys:
    (folder / "keys").write_text("\n".join(keys))
    return ApiKeys(folder / "keys")


def error(response: httpx2.Response) -> tuple[int, str]:
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return response.status_code, found["code"]


@pytest.mark.parametrize(
    "header", ["", KEY, "Bearer", "Bearer ", f"Bearer {KEY}x", f"Basic {KEY}", "Bearer ü"]
)
def test_without_a_valid_key_the_api_is_closed(current, tmp_path, header):
    keys = keys_of(tmp_path, "other" * 4, KEY)
    [answer] = call(current, {"json": ASKED, "headers": {"Authorization": header.encode()}}, keys=keys)
    assert error(answer) == (401, "invalid_api_key")
    assert "a bearer token in" in answer.json()["error"]["message"]
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_valid_key_opens_the_api_under_any_host_and_probes_need_none(current, tmp_path):
    key = {"Authorization": f"bearer {KEY}", "Host": "models.example.org"}
    asked, probe, listed = call(
        current,
        {"json": ASKED, "headers": key},
        {"method": "GET", "url": "/readyz"},
        {"method": "GET", "url": "/v1/models"},
        keys=keys_of(tmp_path, KEY),
    )
    assert (asked.status_code, probe.status_code, listed.status_code) == (200, 200, 401)


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example:80", 403), ("[", 403), ("[::1]:80", 200), ("127.0.0.1", 200)]
)
def test_without_keys_only_loopback_hosts_are_answered(current, host, status):
    [answer] = call(current, {"method": "GET", "url": "/v1/models", "headers": {"Host": host}})
    assert answer.status_code == status


def test_a_body_that_is_too_large_is_refused_by_its_length_or_while_it_arrives(current):
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 1_000

    whole, in_chunks = (call(current, {"content": content})[0] for content in (b"x" * 4_097, chunks()))
    assert error(whole) == error(in_chunks) == (413, "body_too_large")


def test_a_body_that_does_not_arrive_is_refused(current):
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    [answer] = call(current, {"content": stalled()})
    assert error(answer) == (408, "body_timeout")


def test_more_requests_than_batch_and_queue_are_told_to_come_back(current):
    long = {"json": {**ASKED, "max_tokens": 100}}
    answers = call(current, *[long] * 4, queued=1)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert error(refused) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    # and the places are free again
    assert call(current, long)[0].status_code == 200


class SilentEngine:
    """Engine that never answers."""

    context = 512

    def submit(self, prompt: object, sampling: object, deliver: object) -> int:
        return 0

    def cancel(self, request: int) -> None:
        pass

    def load(self) -> tuple[int, int]:
        return 0, 0


def test_a_reply_that_takes_too_long_ends_whole_or_streamed(monkeypatch, current):
    monkeypatch.setattr(current.model, "engine", SilentEngine())
    whole, streamed = call(
        current, {"json": ASKED}, {"json": {**ASKED, "stream": True}}, queued=1, request_s=1.5
    )
    assert error(whole) == (504, "timeout")
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert json.loads(events[-2])["error"]["code"] == "timeout"
    assert events[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("content", "kind", "status", "code", "says"),
    [
        (b"{}", "text/plain", 415, "unsupported_content_type", "text/plain"),
        (b"{", "application/json", 400, "invalid_json", "not JSON"),
        (b'"\xff"', "application/json", 400, "invalid_json", "not JSON"),
        (b"[1]", "application/json", 400, "invalid_json", "not a JSON object"),
        (b"[%s1]" % (b"1," * 120_000), "application/json", 400, "too_many_values", "120,000 commas"),
    ],
)
def test_a_body_that_is_no_request_is_refused(current, content, kind, status, code, says):
    sent = {"content": content, "headers": {"Content-Type": kind}}
    [answer] = call(current, sent, body_bytes=2**20)
    assert error(answer) == (status, code)
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"temprature": 1}, "temprature", "did you mean temperature"),
        ({"n": 2}, "n", "1"),
        ({"k" * 4_000: 1}, "k" * 99, "k: unknown field"),
        ({"model": "m" * 4_000}, "model", "at most 1000"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 513}, "messages", "max_tokens"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "assistant", "content": "It"}]}, "messages", "must be from user"),
        ({"messages": [{"role": "user", "content": "a <video> b"}]}, "messages", "'<video>'"),
        ({"messages": [{"role": "user", "content": "<|im_end|>"}]}, "messages", "'<|im_end|>'"),
        ({"messages": ASKED["messages"] * 65}, "messages", "≤ 64"),
        ({"messages": [{"role": "user", "content": "x" * 200_001}]}, "messages", "≤ 200,000"),
        ({"stop": [""]}, "stop", "at least 1"),
        (
            {"messages": [{"role": "user", "content": [{"type": "sound"}]}]},
            "messages.0.content.0",
            "'audio_url'",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'user'"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(current, change, param, says):
    [answer] = call(current, {"json": {**ASKED, **change}}, body_bytes=2**20)
    assert error(answer)[0] == 400
    found = answer.json()["error"]
    assert found["type"] == "invalid_request_error"
    assert found["param"].startswith(param)
    assert says in found["message"]


def test_another_model_and_another_path_do_not_exist(current):
    model, listed, path = call(
        current,
        {"json": {**ASKED, "model": "gpt-5"}},
        {"method": "GET", "url": "/v1/models/gpt-5"},
        {"json": ASKED, "url": "/v1/completions"},
        queued=1,
    )
    assert error(model) == error(listed) == (404, "model_not_found")
    assert "this server has tiny" in model.json()["error"]["message"]
    assert error(path) == (404, None)
    assert "POST /v1/completions" in path.json()["error"]["message"]


def test_a_field_that_is_null_counts_as_not_given(current):
    names = ("temperature", "top_p", "n", "stop", "stream", "stream_options", "tools", "seed")
    turns = [{"role": "user", "content": "What?", "name": None}]
    plain, given = (
        call(current, {"json": {**ASKED, **extra}})[0]
        for extra in ({}, {**dict.fromkeys(names), "messages": turns})
    )
    assert given.json()["choices"] == plain.json()["choices"]
    [missing] = call(current, {"json": {**ASKED, "messages": None}})
    assert error(missing) == (400, "invalid_value")


def test_an_answer_can_be_sent_back_as_a_message(current):
    [first] = call(current, {"json": ASKED})
    messages = [*ASKED["messages"], first.json()["choices"][0]["message"], *ASKED["messages"]]
    [second] = call(current, {"json": {**ASKED, "messages": messages}})
    assert second.status_code == 200, second.text
    assert second.json()["usage"]["prompt_tokens"] > first.json()["usage"]["prompt_tokens"]


def test_a_client_that_leaves_before_the_end_of_its_body_gets_no_answer(current):
    events = iter([{"type": "http.request", "body": b"{}", "more_body": True}, {"type": "http.disconnect"}])
    sent = []

    async def receive() -> dict:
        return next(events)

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers, "query_string": b""}
    app = build_app(current, limits=LIMITS, keys=None, fetcher=MediaFetcher(MediaHosts(), LIMITS))
    asyncio.run(app(scope, receive, send))
    assert sent == []


def test_a_name_beyond_ascii_is_escaped_in_headers():
    identity = ModelIdentity(name="modèle 模型", version=None, digest="d" * 64)
    assert identity.headers()["X-Model-Name"] == "mod%C3%A8le %E6%A8%A1%E5%9E%8B"


def test_an_answer_names_the_model_version_and_digest(current):
    [answer] = call(current, {"json": ASKED})
    assert answer.json()["system_fingerprint"] == "tiny/3@dddddddddddd"
    assert answer.headers["x-model-version"] == "3"
    assert answer.headers["x-model-digest"] == "d" * 64


@pytest.mark.parametrize(
    ("text", "says"),
    [("# none\n\n", "no key"), ("short\n", "5 characters"), ("ü" * 20, "ASCII"), (None, "cannot be read")],
)
def test_a_file_without_good_keys_is_refused(tmp_path, text, says):
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=says):
        ApiKeys(file)
    with pytest.raises(UserError, match="is a folder or a special file"):
        ApiKeys(Path("/dev/null"))


def test_keys_are_lines_of_a_file(tmp_path):
    (tmp_path / "keys").write_text(f"\ufeff{'w' * 32}\n# of the shop\n{KEY}\r\n\n{'b' * 32}")
    keys = ApiKeys(tmp_path / "keys")
    assert keys.accepts(f"Bearer {KEY}")
    assert keys.accepts(f"Bearer {'b' * 32}")
    assert keys.accepts(f"Bearer {'w' * 32}")
    assert not keys.accepts("Bearer # of the shop")


def test_a_file_of_keys_that_changes_takes_effect_and_a_broken_one_does_not(tmp_path, caplog):
    """A mounted Secret is a link to a folder, which is replaced as a whole."""
    old, new = "o" * 32, "n" * 32

    def mount(name: str, text: str | None) -> None:
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "keys").write_text(text)
        (tmp_path / "next").symlink_to(name)
        (tmp_path / "next").replace(tmp_path / "mounted")

    mount("first", old)
    keys = ApiKeys(tmp_path / "mounted" / "keys")
    mount("second", f"{old}\n{new}")
    assert keys.accepts(f"Bearer {old}")
    assert keys.accepts(f"Bearer {new}")
    for name, text in {"broken": "short", "empty": "", "missing": None}.items():
        mount(name, text)
        caplog.clear()
        assert keys.accepts(f"Bearer {new}")
        assert keys.accepts(f"Bearer {new}")
        assert caplog.text.count("the earlier keys stay") == 1
    mount("third", new)
    assert not keys.accepts(f"Bearer {old}")
    assert keys.accepts(f"Bearer {new}")


class EndedEngine(SilentEngine):
    """Engine whose device has failed."""

    def submit(self, prompt: object, sampling: object, deliver: object) -> int:
        raise EngineEndedError

    def is_alive(self) -> bool:
        return False


def test_probes_and_requests_tell_that_the_engine_has_ended(monkeypatch, current):
    monkeypatch.setattr(current.model, "engine", EndedEngine())
    probes = [{"method": one, "url": url} for one in ("GET", "HEAD") for url in ("/healthz", "/readyz")]
    asked, *probed = call(current, {"json": ASKED}, *probes)
    assert error(asked) == (500, "engine_failed")
    assert [probe.status_code for probe in probed] == [503] * 4


def test_media_of_a_modality_that_the_model_lacks_have_a_code_of_their_own(tmp_path):
    model, processor = tiny_model(model__vision=None)
    identity = ModelIdentity(name="tiny", version=None, digest="d" * 64)
    engine = SlotEngine(model, processor, slots=1, context=512)
    content = base64.b64encode(write_image(tmp_path / "a.png", image(size=40), "png").read_bytes()).decode()
    parts = [{"type": "image_url", "image_url": {"url": f"data:;base64,{content}"}}]
    body = {**ASKED, "messages": [{"role": "user", "content": parts}]}
    with contextlib.closing(CurrentModel(ServedModel(identity, processor, engine, LIMITS))) as current:
        [answer] = call(current, {"json": body}, body_bytes=2**20)
    assert error(answer) == (400, "unsupported_modality")
    assert "1 image files do not fit the model, which accepts" in answer.json()["error"]["message"]
