"""Decoding of clips by processes, once a stream has fetched their files."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from llava_av.datasets.loading import LocatedSample, load_located
from llava_av.datasets.media_stream import MediaStream
from llava_av.datasets.schema import Sample
from llava_av.media.clip import Clip
from llava_av.media.resizing import ImageResizing
from llava_av.recipe import MediaRecipe
from llava_av.training.decode_pool import DecodePool, decoding_processes

__all__ = ["StreamedDecoding", "streamed_decoding"]


class StreamedDecoding:
    """Processes that decode clips once a stream has fetched their files.

    Args:
        stream: Fetches the files.
        pool: Decodes located samples.
    """

    def __init__(self, stream: MediaStream, pool: DecodePool) -> None:
        """Start the thread that waits for files."""
        self._stream, self._pool = stream, pool
        self._feeder = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self.clips_ahead = pool.clips_ahead
        """Number of clips that the processes should have been given."""

    def submit(self, sample: Sample) -> Future[Any]:
        """Start to decode the clip of a sample when its files have been fetched."""
        return self._feeder.submit(self._start, sample)

    def result(self, future: Future[Any], sample: Sample) -> Clip:
        """Return the clip that `submit` started for a sample.

        Raises:
            MediaError: A file is lost, damaged or does not decode, or its worker exceeded a limit or crashed.
        """
        decoding, block = future.result()
        with block:
            return self._pool.result(decoding, sample)

    def close(self) -> None:
        """End the thread."""
        self._feeder.shutdown(cancel_futures=True)

    def _start(self, sample: Sample) -> tuple[Future[Any], contextlib.ExitStack]:
        with contextlib.ExitStack() as block:
            files = block.enter_context(self._stream.files(sample))
            located = LocatedSample(sample=sample, files={name: files[name] for name in files})
            return self._pool.submit(located), block.pop_all()


@contextlib.contextmanager
def streamed_decoding(
    stream: MediaStream, recipe: MediaRecipe, resizing: ImageResizing
) -> Iterator[StreamedDecoding | None]:
    """Provide `decode_workers` processes for a block; None if there are none."""
    with decoding_processes(partial(load_located, media=recipe, resizing=resizing)) as pool:
        if pool is None:
            yield None
            return
        with contextlib.closing(StreamedDecoding(stream, pool)) as decoding:
            yield decoding
