"""Worker processes that decode clips; one that hangs, crashes or needs too much memory is replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from pebble import ProcessExpired, ProcessPool

from llava_av.errors import UserError
from llava_av.files import write_array
from llava_av.media.clip import Clip, Video
from llava_av.media.info import MediaError
from llava_av.processes.cores import available_cores
from llava_av.processes.lifeline import Lifeline, call_when_lifeline_ends
from llava_av.processes.variables import count_variable
from llava_av.storage.store_errors import local_files

if TYPE_CHECKING:
    from llava_av.datasets.loading import LocatedSample
    from llava_av.datasets.schema import Sample

__all__ = ["DECODE_WORKERS_VARIABLE", "DecodePool", "decode_workers", "decoding_processes"]

DECODE_WORKERS_VARIABLE = "LLAVA_AV_DECODE_WORKERS"
"""Variable with the number of processes that decode for each training process; unset: by the cores."""

_LIMIT_S = 120.0
_MEMORY_BYTES = 16 * 2**30
# A worker decodes a clip while the next ones wait, so that none is idle.
_PER_WORKER = 4
_MOST_WORKERS = 16
_MODULE = "llava_av.datasets.loading"


def decode_workers() -> int:
    """Return how many processes decode for this training process; 0: it decodes by itself.

    Each process of a node has an equal share of the cores. With one core each, a worker would only wait.

    Raises:
        UserError: The variable `LLAVA_AV_DECODE_WORKERS` is not a whole number.
    """
    if os.environ.get(DECODE_WORKERS_VARIABLE):
        return count_variable(os.environ, DECODE_WORKERS_VARIABLE)
    each = available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return min(_MOST_WORKERS, each) if each > 1 else 0


@contextlib.contextmanager
def decoding_processes(decode: Callable[[Any], Clip]) -> Iterator[DecodePool | None]:
    """Provide `decode_workers` processes for a block; None if there are none."""
    workers = decode_workers()
    if not workers:
        yield None
        return
    with contextlib.closing(DecodePool(decode, workers=workers)) as pool:
        yield pool


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """A decoded clip, whose arrays are in a file."""

    path: Path
    frame_times_s: tuple[tuple[float, ...], ...]
    """Times of the frames of each video."""
    has_audio: tuple[bool, ...]
    """True for each video with audio."""
    audios: int
    images: int


class DecodePool:
    """Processes that decode the clips of samples; the clips do not depend on their number.

    Arrays travel through files in memory, not through a pipe. The workers end with this process, however it
    ends.

    Args:
        decode: Decodes the media of what `submit` gets; can be pickled.
        workers: Number of processes.
        limit_s: Time limit for a clip in seconds.
        memory_bytes: Limit for the address space of a worker; only Linux enforces it.
    """

    def __init__(
        self,
        decode: Callable[[Any], Clip],
        *,
        workers: int,
        limit_s: float = _LIMIT_S,
        memory_bytes: int = _MEMORY_BYTES,
    ) -> None:
        """Start the processes."""
        self._decode, self._limit_s = decode, limit_s
        self._lifeline = Lifeline()
        self._folder = tempfile.TemporaryDirectory(prefix="llava-av-clips-", dir=_memory_folder())
        self._files: dict[Future[Any], Path] = {}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_MODULE])
        self._pool = ProcessPool(
            max_workers=workers,
            initializer=_start_worker,
            initargs=(str(self._lifeline.path), self._folder.name, memory_bytes),
            context=context,
        )
        self.clips_ahead = workers * _PER_WORKER
        """Number of clips that the processes should have been given."""

    @property
    def is_running(self) -> bool:
        """Return whether the pool takes samples; all of its processes may have been killed."""
        return bool(self._pool.active)

    def submit(self, sample: Sample | LocatedSample) -> Future[Any]:
        """Start to decode the clip of a sample, for `result`."""
        folder = Path(self._folder.name)
        # the worker only opens the file, so that none appears after this process removed it
        with local_files(folder):
            descriptor, name = tempfile.mkstemp(dir=folder)
        os.close(descriptor)
        arguments = (self._decode, sample, Path(name))
        future: Future[Any] = self._pool.schedule(_decode_to_file, args=arguments, timeout=self._limit_s)
        self._files[future] = Path(name)
        return future

    def result(self, future: Future[Any], sample: Sample) -> Clip:
        """Return the clip that `submit` started for a sample.

        Raises:
            MediaError: A file is missing or does not decode, or its worker exceeded a limit or crashed.
            StoreError: There is no memory left for files.
        """
        try:
            decoded = future.result()
        except TimeoutError:
            _refuse(sample, f"does not decode within {self._limit_s:g} s; export it again or shorten it")
        except ProcessExpired as error:
            _refuse(sample, f"ends the process that decodes it (exit code {error.exitcode}); export it again")
        except MemoryError:
            _refuse(sample, "needs too much memory to decode; export it with a smaller size")
        else:
            return _read_clip(decoded)
        finally:
            self._remove_file(future)

    def discard(self, future: Future[Any]) -> None:
        """End the decoding of a clip that nobody reads, and remove its file."""
        future.cancel()
        self._remove_file(future)

    def _remove_file(self, future: Future[Any]) -> None:
        path = self._files.pop(future, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """End the processes."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()
        self._lifeline.close()
        self._folder.cleanup()


def _memory_folder() -> str | None:
    """Return a folder whose files are in memory; None if there is none, as on macOS."""
    folder = "/dev/shm"
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _refuse(sample: Sample, reason: str) -> NoReturn:
    name = next(iter((*sample.video, *sample.audio, *sample.image)), "")
    raise MediaError(name, f"{reason} (sample {sample.id})") from None


def _start_worker(lifeline: str, folder: str, memory_bytes: int) -> None:
    def end() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)

    # A worker that finds its pipe closed first ends by itself, and its thread with it.
    Finalize(None, _remove_if_orphaned, args=(folder,), exitpriority=0)
    # The parent handles Ctrl-C, and its end ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    call_when_lifeline_ends(lifeline, end)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _remove_if_orphaned(folder: str) -> None:
    """Remove the folder of a pool whose process has ended; a worker that is replaced leaves it alone."""
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():
        shutil.rmtree(folder, ignore_errors=True)


def _decode_to_file(decode: Callable[[Any], Clip], sample: Sample | LocatedSample, path: Path) -> _Decoded:
    """Decode a clip in a worker, and write its arrays to a file that exists."""
    clip = decode(sample)
    with local_files(path.parent), path.open("r+b") as file:
        for array in _arrays(clip):
            write_array(file, array)
    return _Decoded(
        path=path,
        frame_times_s=tuple(video.frame_times_s for video in clip.videos),
        has_audio=tuple(video.audio is not None for video in clip.videos),
        audios=len(clip.audios),
        images=len(clip.images_nhwc),
    )


def _arrays(clip: Clip) -> Iterator[np.ndarray]:
    for video in clip.videos:
        yield video.frames_nhwc
        if video.audio is not None:
            yield video.audio
    yield from clip.audios
    yield from clip.images_nhwc


def _read_clip(decoded: _Decoded) -> Clip:
    """Read a clip into memory of its own: that of the file is scarce, and a clip may be kept for long."""
    try:
        with decoded.path.open("rb") as file:

            def read() -> np.ndarray:
                array: np.ndarray = np.load(file, allow_pickle=False)
                return array

            videos = zip(decoded.frame_times_s, decoded.has_audio, strict=True)
            return Clip(
                videos=tuple(
                    Video(frames_nhwc=read(), frame_times_s=times, audio=read() if has_audio else None)
                    for times, has_audio in videos
                ),
                audios=tuple(read() for _ in range(decoded.audios)),
                images_nhwc=tuple(read() for _ in range(decoded.images)),
            )
    except OSError as error:
        raise UserError(f"{decoded.path}: {error.strerror or error}") from None
