"""Processes that decode: the same clips for any number of them, and no clip that stops all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from llava_av.errors import UserError
from llava_av.media.info import MediaError
from llava_av.training import decode_pool
from llava_av.training.decode_pool import DECODE_WORKERS_VARIABLE, DecodePool, decode_workers
from llava_av.training.encoded_cache import EncodedCache
from tests.decoders import decode, new_sample
from tests.model_samples import tiny_model

CASES = ((0, "many"), (1, "hang"), (2, "slow"))

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodePool]:
    monkeypatch.setattr(decode_pool, "_memory_folder", lambda: str(tmp_path))
    with closing(DecodePool(decode, workers=2, limit_s=3.0, memory_bytes=2**33)) as opened:
        yield opened


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_clips_are_those_of_this_process_and_leave_no_file(pool: DecodePool, tmp_path: Path) -> None:
    samples = [new_sample(0, "slow"), *(new_sample(number, "many") for number in range(1, 6))]
    started = [(sample, pool.submit(sample)) for sample in samples]
    for sample, future in started:
        found, expected = pool.result(future, sample), decode(sample)
        for video, other in zip(found.videos, expected.videos, strict=True):
            assert np.array_equal(video.frames_nhwc, other.frames_nhwc)
            assert video.frames_nhwc.flags.writeable
            assert video.frame_times_s == other.frame_times_s
            assert (video.audio is None) == (other.audio is None)
            assert other.audio is None or np.array_equal(video.audio, other.audio)
        assert np.array_equal(found.audios, expected.audios)
        assert np.array_equal(found.images_nhwc, expected.images_nhwc)
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ("hang", r"hang0\.mp4: does not decode within 3 s.*sample hang-0-0"),
        ("crash", r"crash0\.mp4: ends the process that decodes it \(exit code 7\).*sample crash-0-0"),
        ("huge", r"huge0\.mp4: needs too much memory.*sample huge-0-0"),
        ("bad", r"bad0\.mp4: does not decode$"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="macOS limits no address space")
def test_a_clip_that_cannot_be_decoded_is_named_and_leaves_no_file_and_stops_no_other(
    pool: DecodePool, tmp_path: Path, fate: str, reason: str
) -> None:
    others = [new_sample(number) for number in range(1, 5)]
    refused = new_sample(0, fate)
    future, started = pool.submit(refused), [(other, pool.submit(other)) for other in others]
    with pytest.raises(MediaError, match=reason):
        pool.result(future, refused)
    for other, decoding in started:
        assert len(pool.result(decoding, other).videos) == 1
    assert files_of(tmp_path) == []


def test_a_clip_that_is_discarded_leaves_no_file(pool: DecodePool, tmp_path: Path) -> None:
    decoded, hanging, waiting = (pool.submit(new_sample(number, fate)) for number, fate in CASES)
    decoded.result()
    assert len(files_of(tmp_path)) == 3
    for future in (decoded, hanging, waiting):
        pool.discard(future)
    assert files_of(tmp_path) == []
    for number in (3, 4):
        one = new_sample(number)
        assert pool.result(pool.submit(one), one).videos
    assert files_of(tmp_path) == []


def test_workers_and_files_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import time\nfrom tests.decoders import decode, new_sample\n"
        "from llava_av.training.decode_pool import DecodePool\n"
        "if __name__ == '__main__':\n"
        "    pool = DecodePool(decode, workers=2)\n"
        "    pool.result(pool.submit(new_sample(1)), new_sample(1))\n"
        "    pool.submit(new_sample(2)).result()\n"
        "    print(pool._folder.name, flush=True)\n    time.sleep(600)\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert len(list(folder.iterdir())) == 1
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 2
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while folder.exists() or any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below):
        assert time.monotonic() < deadline, below
        time.sleep(0.05)


class _Counting:
    """Decoding in this process that counts what waits to be used."""

    clips_ahead = 3

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.waiting = 0
        self.most = 0

    def submit(self, sample):
        self.submitted.append(sample.video[0])
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return sample.video[0]

    def result(self, future, sample):
        assert future == sample.video[0]
        self.waiting -= 1
        return decode(sample)


def test_clips_are_decoded_once_in_the_order_of_their_use_and_few_ahead() -> None:
    processes = _Counting()
    cache = EncodedCache(tiny_model()[1], decode, max_bytes=2**24, processes=processes)
    samples = [new_sample(number, question=question) for number in range(8) for question in range(3)]
    cache.expect(samples)
    assert processes.submitted == ["clip0.mp4", "clip1.mp4", "clip2.mp4"]
    for sample in samples:
        assert np.array_equal(
            cache.get(sample)[1].videos[0].frames_nhwc, decode(sample).videos[0].frames_nhwc
        )
    assert processes.submitted == [f"clip{number}.mp4" for number in range(8)]
    assert processes.most == 4


def test_a_clip_that_left_the_cache_is_decoded_again() -> None:
    processes = _Counting()
    one = decode(new_sample(0)).nbytes
    cache = EncodedCache(tiny_model()[1], decode, max_bytes=one, processes=processes)
    samples = [new_sample(number) for number in (0, 1, 0)]
    cache.expect(samples)
    for sample in samples:
        cache.get(sample)
    assert processes.submitted == ["clip0.mp4", "clip1.mp4", "clip0.mp4"]


@pytest.mark.parametrize(
    ("variables", "workers"),
    [
        ({"LOCAL_WORLD_SIZE": "2"}, 4),
        ({"LOCAL_WORLD_SIZE": "8"}, 0),
        ({}, 8),
        ({DECODE_WORKERS_VARIABLE: "3"}, 3),
        ({DECODE_WORKERS_VARIABLE: "0"}, 0),
    ],
)
def test_the_cores_of_a_node_are_shared_by_its_processes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], workers: int
) -> None:
    for name in ("LOCAL_WORLD_SIZE", DECODE_WORKERS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert decode_workers() == workers


def test_a_number_of_workers_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DECODE_WORKERS_VARIABLE, "many")
    with pytest.raises(UserError, match=f"{DECODE_WORKERS_VARIABLE}='many'"):
        decode_workers()
