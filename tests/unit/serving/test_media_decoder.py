"""Processes that decode the media of requests, and what happens when they end or hang."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import psutil
import pytest

from llava_av.datasets.loading import LocatedSample
from llava_av.media.clip import Clip
from llava_av.media.resizing import ImageResizing
from llava_av.recipe import MediaRecipe
from llava_av.serving.limits import ServingLimits
from llava_av.serving.media_decoder import MediaDecoder
from llava_av.serving.media_limits import media_sample
from llava_av.serving.request_errors import RequestError
from llava_av.training.decode_pool import DecodePool
from tests.media_samples import click, write_audio

LONG = MediaRecipe(max_audio_s=600)


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> LocatedSample:
    path = write_audio(tmp_path_factory.mktemp("media") / "a.wav", click(0.5)[None], 16_000, "pcm_s16le")
    return media_sample("request", {"audio": ["part"]}, {"part": path})


@pytest.fixture(scope="module")
def slow(tmp_path_factory) -> LocatedSample:
    """Return audio of which decoding takes a good part of a second."""
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 48_000 * 300)).astype(np.float32)
    path = write_audio(tmp_path_factory.mktemp("media") / "long.flac", noise, 48_000, "flac")
    return media_sample("request", {"audio": ["part"]}, {"part": path})


@pytest.fixture(scope="module")
def decoder() -> Iterator[MediaDecoder]:
    limits = ServingLimits(decode_workers=1)
    made = MediaDecoder(limits, LONG, ImageResizing())
    yield made
    made.close()


def decode(decoder: MediaDecoder, media: LocatedSample) -> Clip:
    return asyncio.run(decoder.decode(media))


def worker() -> psutil.Process:
    """Return the newest process that the fork server of this process has started."""
    below = psutil.Process().children(recursive=True)
    return max(
        (one for one in below if one.ppid() != psutil.Process().pid), key=lambda one: one.create_time()
    )


def test_decoding_goes_on_after_all_idle_processes_were_killed(decoder, audio):
    assert len(decode(decoder, audio).audios[0]) == 32_000
    killed = worker()
    killed.kill()
    killed.wait(10)
    assert len(decode(decoder, audio).audios[0]) == 32_000
    assert worker() != killed


def test_a_file_that_takes_too_long_is_refused_and_its_process_replaced(slow):
    decoder = MediaDecoder(ServingLimits(decode_workers=1, decode_s=0.05), LONG, ImageResizing())
    try:
        with pytest.raises(RequestError, match=r"part: does not decode within 0\.05 s") as refused:
            decode(decoder, slow)
    finally:
        decoder.close()
    assert refused.value.code == "invalid_media"


def test_a_request_that_is_cancelled_before_its_clip_is_read_leaves_no_file(monkeypatch, decoder, audio):
    begun, submit, submitted = asyncio.Event(), DecodePool.submit, []

    def recorded(pool: DecodePool, media: LocatedSample) -> Future:
        submitted.append(submit(pool, media))
        return submitted[-1]

    async def never(*call: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def cancelled() -> None:
        task = asyncio.create_task(decoder.decode(audio))
        await asyncio.wait_for(begun.wait(), 30)
        assert submitted[-1].result().path.exists()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    decode(decoder, audio)
    monkeypatch.setattr(DecodePool, "submit", recorded)
    monkeypatch.setattr(asyncio, "to_thread", never)
    asyncio.run(cancelled())
    assert not submitted[-1].result().path.exists()


def test_a_request_that_is_cancelled_ends_its_decoding(decoder, audio, slow):
    decode(decoder, audio)
    before = worker()

    async def cancelled() -> None:
        async with asyncio.timeout(0.1):
            await decoder.decode(slow)

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    assert len(decode(decoder, audio).audios[0]) == 32_000
    assert worker() != before
