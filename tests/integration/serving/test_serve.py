"""`llava-av serve` as an application sees it, through OpenAI's client."""

import base64
import re
import signal
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import APIStatusError, BadRequestError, OpenAI

from llava_av.inference.chat import Conversation
from llava_av.inference.chat_media import ChatMedia
from tests.commands import called_here
from tests.integration.serving.conftest import serving
from tests.media_samples import (
    click,
    cut,
    write_audio,
    write_grey_clip,
    write_image,
    write_video,
)
from tests.model_samples import image
from tests.server_processes import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TOKENS = 12
HEARD, SEEN = "What do you hear?", "Which colour is shown?"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_grey_clip(folder / "loud.mp4", click(0.5))
    write_audio(folder / "audio.wav", click(0.5)[None], 16_000, "pcm_s16le")
    write_image(folder / "still.png", image(size=40), "png")
    return folder


def base64_of(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def part(kind: str, path: Path) -> dict[str, Any]:
    if kind == "input_audio":
        return {"type": kind, kind: {"data": base64_of(path), "format": "wav"}}
    return {"type": kind, kind: {"url": f"data:;base64,{base64_of(path)}"}}


def text(question: str) -> dict[str, Any]:
    return {"type": "text", "text": question}


def asked(client: OpenAI, content: Any, **options: Any) -> Any:
    messages = content if isinstance(content, list) and "role" in content[0] else None
    return client.chat.completions.create(
        model="tiny",
        messages=messages or [{"role": "user", "content": content}],
        **{"max_tokens": TOKENS, **options},
    )


def chat_reply(model: Path, question: str, **shown: Any) -> str:
    """Return the reply of `llava-av chat`."""
    return Conversation(model, ChatMedia(**shown), max_new_tokens=TOKENS, device="cpu").ask(question)


@pytest.mark.parametrize(
    ("kind", "name", "shown", "question", "options"),
    [
        ("video_url", "loud.mp4", "video", SEEN, {}),
        ("video_url", "loud.mp4", "video", SEEN, {"use_audio": False}),
        ("audio_url", "audio.wav", "audio", HEARD, {}),
        ("input_audio", "audio.wav", "audio", HEARD, {}),
        ("image_url", "still.png", "images", SEEN, {}),
    ],
)
def test_an_answer_about_a_medium_is_that_of_chat(model, client, media, kind, name, shown, question, options):
    path = media / name
    extra = {"use_audio_in_video": options.get("use_audio", True)}
    answer = asked(client, [part(kind, path), text(question)], extra_body=extra)
    given = {shown: (path,) if shown == "images" else path, **options}
    choice = answer.choices[0]
    assert choice.message.content.strip() == chat_reply(model, question, **given)
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == TOKENS
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + TOKENS
    assert re.fullmatch(r"tiny@[0-9a-f]{12}", answer.system_fingerprint)


def test_a_streamed_answer_is_the_whole_one_in_pieces(client, media):
    content = [part("video_url", media / "loud.mp4"), text(SEEN)]
    whole = asked(client, content)
    chunks = list(asked(client, content, stream=True, stream_options={"include_usage": True}))
    *pieces, end, usage = chunks
    texts = [chunk.choices[0].delta.content for chunk in pieces]
    assert "".join(texts) == whole.choices[0].message.content
    assert len([text for text in texts if text]) > 1
    assert pieces[0].choices[0].delta.role == "assistant"
    assert end.choices[0].finish_reason == "length"
    assert usage.choices == []
    assert usage.usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_a_conversation_with_a_system_message_goes_on(client):
    turns = [
        {"role": "system", "content": SEEN},
        {"role": "user", "content": HEARD},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "What?"},
    ]
    whole, without = asked(client, turns), asked(client, turns[1:])
    assert whole.usage.prompt_tokens > without.usage.prompt_tokens


def test_sampling_stop_and_seed_reach_the_engine(client):
    seeded = [
        asked(client, SEEN, temperature=1.5, seed=seed).choices[0].message.content for seed in (1, 1, 2)
    ]
    assert seeded[0] == seeded[1] != seeded[2]
    greedy = asked(client, SEEN).choices[0].message.content
    stopped = asked(client, SEEN, stop=[greedy[3:5]]).choices[0]
    assert stopped.message.content == greedy[: greedy.index(greedy[3:5])]
    assert stopped.finish_reason == "stop"


def test_concurrent_answers_are_those_of_each_alone(client, media):
    contents = [
        [part("video_url", media / "loud.mp4"), text(SEEN)],
        "What?",
        [part("image_url", media / "still.png"), text(SEEN)],
        [part("audio_url", media / "audio.wav"), text(HEARD)],
    ] * 2
    alone = [asked(client, content).choices[0].message.content for content in contents[:4]]
    with ThreadPoolExecutor(len(contents)) as threads:
        together = [
            found.choices[0].message.content
            for found in threads.map(lambda one: asked(client, one), contents)
        ]
    assert together == alone * 2


def metrics(address: str) -> dict[str, float]:
    with urllib.request.urlopen(address.removesuffix("/v1") + "/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


def test_metrics_count_requests_tokens_and_seconds_of_media(client, address, media):
    before = metrics(address)
    asked(client, [part("video_url", media / "loud.mp4"), text(SEEN)])
    after = metrics(address)

    def grown(name: str) -> float:
        return after[f"llava_av_serving_{name}"] - before.get(f"llava_av_serving_{name}", 0)

    assert grown('requests_total{status="200"}') == 1
    assert grown("generated_tokens_total") == TOKENS
    assert grown("time_to_first_token_seconds_count") == 1
    assert grown('media_seconds_total{modality="video"}') == pytest.approx(2, abs=0.1)
    assert grown('media_seconds_total{modality="audio"}') == pytest.approx(2, abs=0.1)


def batch_size(address: str) -> float:
    return metrics(address)["llava_av_serving_batch_size"]


def test_a_client_that_leaves_frees_its_place(client, address):
    """The tiny model needs seconds for so many tokens, so the place is free before they are generated."""
    stream = asked(client, "What?", stream=True, max_tokens=2_000)
    next(stream)
    wait_until(lambda: batch_size(address) == 1, 10)
    stream.close()
    wait_until(lambda: batch_size(address) == 0, 1)
    with pytest.raises(Exception, match="timed out"):
        asked(client, "What?", max_tokens=2_000, timeout=0.5)
    wait_until(lambda: batch_size(address) == 0, 1)


def forged_rate(folder: Path) -> Path:
    """Return a WAV whose header states an absurd sample rate."""
    path = write_audio(folder / "rate.wav", click(0.5)[None], 16_000, "pcm_s16le")
    content = bytearray(path.read_bytes())
    content[24:28] = (1_000_000_000).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def long_silence(folder: Path) -> Path:
    """Return Opus audio that is long for its bytes."""
    return write_audio(folder / "long.ogg", np.zeros((1, 48_000 * 60), np.float32), 48_000, "libopus")


def large_image(folder: Path) -> Path:
    return write_image(folder / "large.png", image(size=400), "png")


def small_image(folder: Path) -> Path:
    return write_image(folder / "small.png", image(size=40), "png")


def short_click(folder: Path) -> Path:
    return write_audio(folder / "click.wav", click(0.5)[None], 16_000, "pcm_s16le")


def many_frames(folder: Path) -> Path:
    return write_video(folder / "many.mp4", [number / 60 for number in range(100)])


def damaged(folder: Path) -> Path:
    return cut(write_grey_clip(folder / "whole.mp4", click(0.5)), folder / "cut.mp4")


def text_file(folder: Path) -> Path:
    (folder / "text.mp4").write_text("no video")
    return folder / "text.mp4"


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (forged_rate, "audio_url", "1,000,000,000 audio samples per second"),
        (long_silence, "audio_url", "60.* seconds, must be ≤ 4"),
        (large_image, "image_url", "160,000 pixels, must be ≤ 100,000"),
        (many_frames, "video_url", "100 frames, must be ≤ 40"),
        (damaged, "video_url", "truncated|damaged"),
        (text_file, "video_url", "not a readable media file"),
        (lambda folder: write_grey_clip(folder / "mute.mp4"), "audio_url", "no audio track"),
        (large_image, "video_url", "pixels"),
        (short_click, "image_url", "audio without video, but is sent as image: send it as audio_url"),
        (short_click, "video_url", "audio without video, but is sent as video: send it as audio_url"),
        (lambda folder: write_grey_clip(folder / "a.mp4"), "image_url", "is a video.*send it as video_url"),
        (small_image, "video_url", "is a still image, but is sent as video: send it as image_url"),
    ],
)
def test_forged_damaged_and_large_media_are_refused_by_name(client, tmp_path, make, kind, says):
    with pytest.raises(BadRequestError, match=says) as refused:
        asked(client, [text(SEEN), part(kind, make(tmp_path))])
    assert refused.value.code == "invalid_media"
    assert "messages[0].content[1]" in refused.value.message
    assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://169.254.169.254/latest", "unsupported_url"),
        ("file:///etc/passwd", "unsupported_url"),
        ("/etc/passwd", "unsupported_url"),
        ("data:image/png,plain", "unsupported_url"),
        ("data:image/png;base64,%%%", "invalid_base64"),
        ("data:;base64," + "A" * 2_700_000, "media_too_large"),
        ("data:;base64,", "invalid_media"),
    ],
)
def test_only_files_in_the_request_are_read(client, url, code):
    with pytest.raises(BadRequestError) as refused:
        asked(client, [{"type": "image_url", "image_url": {"url": url}}, text(SEEN)])
    assert refused.value.code == code
    assert len(refused.value.message) < 300


def test_too_many_media_and_media_of_others_are_refused(client, media):
    still = part("image_url", media / "still.png")
    with pytest.raises(BadRequestError, match="may have 3 media files"):
        asked(client, [*[still] * 4, text(SEEN)])
    with pytest.raises(BadRequestError, match=r"messages\[0\].content\[0\]: only messages of user"):
        asked(client, [{"role": "system", "content": [still]}, {"role": "user", "content": SEEN}])


def test_the_server_lists_its_model(client):
    [found] = client.models.list()
    assert found.id == "tiny"
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(APIStatusError, match="does not exist"):
        client.models.retrieve("gpt-5")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "add --api-keys"),
        (["--limit", "bach=3"], "did you mean batch"),
        (["--limit", "batch=0"], "greater than or equal to 1"),
        (["--limit", "batch"], "give --limit KEY=VALUE"),
        (["--media-host", "*.example.org"], "exact name of a host"),
        (["--host", "192.0.2.1", "--api-keys", "KEYS"], "cannot be used"),
    ],
)
def test_a_server_that_would_be_open_or_misconfigured_does_not_start(model, tmp_path, options, says):
    (tmp_path / "KEYS").write_text("k" * 32)
    given = [str(tmp_path / one) if one == "KEYS" else one for one in options]
    code, output = called_here("serve", str(model), *given)
    assert code == 1
    assert says in output


@pytest.mark.parametrize("option", ["--follow-s", "--shutdown-delay-s"])
def test_a_wait_that_no_thread_can_have_is_refused(model, option):
    code, output = called_here("serve", str(model), option, "1e10")
    assert code == 2
    assert "86400" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_server_that_ends_lets_requests_end_and_leaves_no_process(model, tmp_path, number, code):
    with serving(str(model), tmp_path / "log") as (address, command):
        client = OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60)
        stream = asked(client, "What?", stream=True, max_tokens=300)
        next(stream)
        command.process.send_signal(number)
        if number != signal.SIGKILL:
            assert list(stream)[-1].choices[0].finish_reason == "length"
        assert command.wait(60) == code
    assert "Traceback" not in command.output()
