"""Benchmark of decoding clips on all cores: `python -m benchmarks.decoding`.

Each side decodes the same MP4 files of `--seconds` at 640 x 360 and 25 frames per second, with stereo audio
of 48 kHz, into 40 frames of 384 x 384 and mono audio of 16 kHz; no clip is decoded before or kept. x264
encodes the clips with its defaults; `--b-frames 0` leaves out B-frames. The sides alternate in each round, so
all share the load of the machine. The table has the medians of clips per second, and of the CPU time of all
processes for each clip, which depends less on other work of the machine.

- `bare`: a loop of PyAV calls in one process per core, without checks and without passing on its results.
- `llava_av`: the pool of a training process, with arrays passed on to that process.
- `webdataset`: the same loop in workers of torch's DataLoader that read tar files with WebDataset.
- `streaming`: the same loop in workers of torch's DataLoader that read shards with MosaicML Streaming.
- `torchcodec`: one thread per core with a decoder of one FFmpeg thread, if FFmpeg is installed.

The last three run only if their packages can be imported; they are no dependencies of this project.
"""

import argparse
import io
import multiprocessing
import os
import shutil
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

import av
import numpy as np
import psutil
from av.audio.resampler import AudioResampler
from av.video.frame import PictureType

from llava_av.datasets.loading import load_clip
from llava_av.datasets.schema import Sample
from llava_av.media.decode import frame_times
from llava_av.media.resizing import ImageResizing
from llava_av.recipe import MediaRecipe
from llava_av.training.decode_pool import DecodePool

FPS, RATE_HZ = 25, 48_000
FRAMES, SIZE, AUDIO_HZ = 40, 384, 16_000


def write_clip(path: Path, source: Path, seconds: int, *, b_frames: int) -> None:
    """Write `seconds` of a film, repeated as often as needed, with noise as its audio."""
    with av.open(str(source)) as film:
        frames = [frame.reformat(640, 360, "yuv420p") for frame in film.decode(video=0)]
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = 640, 360, "yuv420p"
        # With more threads, the file depends on the number of cores.
        video.codec_context.max_b_frames, video.codec_context.thread_count = b_frames, 1
        audio: Any = container.add_stream("aac", rate=RATE_HZ, layout="stereo")
        for number in range(seconds * FPS):
            frame = frames[number % len(frames)]
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            # x264 would keep the types of the film's frames.
            frame.pict_type = PictureType.NONE
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for second in range(seconds):
            noise = generator.normal(0, 0.1, (2, RATE_HZ)).astype(np.float32)
            samples = av.AudioFrame.from_ndarray(noise, "fltp", "stereo")
            samples.sample_rate, samples.pts = RATE_HZ, second * RATE_HZ
            container.mux(audio.encode(samples))
        container.mux(audio.encode(None))


def decode_bare(file: Path | BinaryIO, seconds: float) -> tuple[Any, Any]:
    """Decode a clip with as few calls as possible."""
    times = deque(frame_times(seconds, frames_per_s=FRAMES / seconds, max_frames=FRAMES))
    frames, waves = [], []
    resampler = AudioResampler("flt", "mono", AUDIO_HZ)
    with av.open(str(file) if isinstance(file, Path) else file) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        video.codec_context.thread_count = 1
        last = None
        for packet in container.demux(video, audio):
            for frame in packet.decode():
                if isinstance(frame, av.AudioFrame):
                    waves += [one.to_ndarray() for one in resampler.resample(frame)]
                    continue
                while times and last is not None and frame.time > times[0]:
                    times.popleft()
                    frames.append(last.to_ndarray(width=SIZE, height=SIZE, format="rgb24"))
                last = frame
    frames += [last.to_ndarray(width=SIZE, height=SIZE, format="rgb24") for _ in times]
    return np.stack(frames), np.concatenate(waves, axis=1)


def _decode_and_drop(path: Path, seconds: float) -> None:
    frames, audio = decode_bare(path, seconds)
    assert (len(frames), audio.shape[1] > 0) == (FRAMES, True)


def run_bare(paths: Sequence[Path], seconds: float, cores: int, block: ExitStack) -> Callable[[], None]:
    """Return a function that decodes all files with bare PyAV."""
    pool = block.enter_context(multiprocessing.get_context("forkserver").Pool(cores))
    decode = partial(_decode_and_drop, seconds=seconds)
    pool.map(decode, paths[:cores])
    return lambda: pool.map(decode, paths, chunksize=1) and None


def run_llava_av(paths: Sequence[Path], seconds: float, cores: int, block: ExitStack) -> Callable[[], None]:
    """Return a function that decodes all files as a training process does."""
    media = MediaRecipe(
        frames_per_s=FRAMES / seconds, max_frames=FRAMES, frame_size=SIZE, max_audio_s=seconds
    )
    turns = [{"from": "human", "value": "<video>"}, {"from": "gpt", "value": "yes"}]
    samples = [
        Sample.model_validate({"id": path.name, "video": [path.name], "conversations": turns})
        for path in paths
    ]
    load = partial(load_clip, paths[0].parent, media=media, resizing=ImageResizing())
    pool = block.enter_context(closing(DecodePool(load, workers=cores)))

    def run() -> None:
        waiting = deque(samples)
        started: deque[tuple[Any, Sample]] = deque()
        while waiting or started:
            while waiting and len(started) < pool.clips_ahead:
                started.append((pool.submit(waiting[0]), waiting.popleft()))
            [video] = pool.result(*started.popleft()).videos
            assert (len(video.frames_nhwc), video.audio is not None) == (FRAMES, True)

    for sample in samples[:cores]:
        pool.result(pool.submit(sample), sample)
    return run


def run_torchcodec(paths: Sequence[Path], seconds: float, cores: int, block: ExitStack) -> Callable[[], None]:
    """Return a function that decodes all files with torchcodec."""
    from torch.nn.functional import interpolate
    from torchcodec.decoders import AudioDecoder, VideoDecoder

    times = frame_times(seconds, frames_per_s=FRAMES / seconds, max_frames=FRAMES)

    def decode(path: Path) -> None:
        video = VideoDecoder(str(path), num_ffmpeg_threads=1)
        frames = interpolate(video.get_frames_played_at(times).data, (SIZE, SIZE), mode="bilinear")
        audio = AudioDecoder(str(path), sample_rate=AUDIO_HZ, num_channels=1).get_all_samples().data
        assert (len(frames), audio.shape[1] > 0) == (FRAMES, True)

    pool = block.enter_context(ThreadPoolExecutor(cores))
    list(pool.map(decode, paths[:cores]))
    return lambda: list(pool.map(decode, paths)) and None


def _decode_entry(entry: dict[str, Any], seconds: float) -> tuple[Any, Any]:
    return decode_bare(io.BytesIO(entry["mp4"]), seconds)


def run_webdataset(paths: Sequence[Path], seconds: float, cores: int, block: ExitStack) -> Callable[[], None]:
    """Return a function that decodes all files from tar files in workers of a DataLoader."""
    import webdataset

    shards = [paths[0].parent / f"shard-{number}.tar" for number in range(cores)]
    for number, shard in enumerate(shards):
        with tarfile.open(shard, "w") as tar:
            for path in paths[number::cores]:
                tar.add(path, path.name)
    names = [str(shard) for shard in shards]
    dataset = webdataset.WebDataset(names, shardshuffle=False, nodesplitter=None)
    return _run_workers(dataset.map(partial(_decode_entry, seconds=seconds)), len(paths), cores)


def run_streaming(paths: Sequence[Path], seconds: float, cores: int, block: ExitStack) -> Callable[[], None]:
    """Return a function that decodes all files from shards in workers of a DataLoader."""
    from streaming import MDSWriter, StreamingDataset

    class Clips(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> tuple[Any, Any]:
            return _decode_entry(super().__getitem__(at), seconds)

    folder = paths[0].parent / "shards"
    with MDSWriter(out=str(folder), columns={"mp4": "bytes"}) as writer:
        for path in paths:
            writer.write({"mp4": path.read_bytes()})
    return _run_workers(Clips(local=str(folder), shuffle=False, batch_size=1), len(paths), cores)


def _run_workers(dataset: Any, clips: int, cores: int) -> Callable[[], None]:
    from torch.utils.data import DataLoader

    loader = DataLoader(dataset, batch_size=None, num_workers=cores, persistent_workers=True)

    def run() -> None:
        assert sum(len(frames) == FRAMES for frames, _ in loader) == clips

    run()
    return run


SIDES = {
    "bare": run_bare,
    "llava_av": run_llava_av,
    "webdataset": run_webdataset,
    "streaming": run_streaming,
    "torchcodec": run_torchcodec,
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.decoding", description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--b-frames", type=int, default=3, help="most consecutive B-frames of the clips")
    parser.add_argument("--film", type=Path, required=True, help="any video, whose frames the clips repeat")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as block:
        first = Path(folder) / "0000.mp4"
        write_clip(first, options.film, options.seconds, b_frames=options.b_frames)
        paths = [first, *(Path(folder) / f"{number:04}.mp4" for number in range(1, options.clips))]
        for path in paths[1:]:
            shutil.copy(first, path)
        present = [name for name in SIDES if name in ("bare", "llava_av") or find_spec(name)]
        runs = {name: SIDES[name](paths, options.seconds, cores, block) for name in present}
        results = _measure(runs, options.rounds)
    print(f"{cores} cores, {options.clips} clips of {options.seconds} s, load {os.getloadavg()[0]:.1f}")
    bare_s = median(wall_s for wall_s, _ in results["bare"])
    for name, measured in results.items():
        wall_s = median(wall_s for wall_s, _ in measured)
        cpu_s = median(cpu_s for _, cpu_s in measured) / options.clips
        print(
            f"{name:<11}{options.clips / wall_s:7.2f} clips/s{bare_s / wall_s:7.2f} of bare"
            f"{cpu_s:8.3f} CPU s for each clip"
        )


def _measure(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the wall time and the CPU time of each round of each side, in seconds."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            cpu_s, started = _cpu_s(), time.perf_counter()
            run()
            wall_s = time.perf_counter() - started
            results[name].append((wall_s, _cpu_s() - cpu_s))
    return results


def _cpu_s() -> float:
    """Return the CPU time of this process and its living children, in seconds."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(one.user + one.system for one in times)


if __name__ == "__main__":
    main()
