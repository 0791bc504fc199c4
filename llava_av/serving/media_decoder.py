"""Decoding of the media of requests in other processes, which are replaced when they end."""

import asyncio
import logging
import threading
from concurrent.futures import Future
from functools import partial
from typing import Any

from llava_av.datasets.loading import LocatedSample
from llava_av.media.clip import Clip
from llava_av.media.info import MediaError
from llava_av.media.resizing import ImageResizing
from llava_av.recipe import MediaRecipe
from llava_av.serving.limits import ServingLimits
from llava_av.serving.media_limits import decode_within, media_sample
from llava_av.serving.request_errors import invalid
from llava_av.training.decode_pool import DecodePool

__all__ = ["MediaDecoder"]

_LOG = logging.getLogger(__name__)


class MediaDecoder:
    """Processes that check and decode media.

    Args:
        limits: Limits of the server.
        media: Sampling rates and sizes of the model.
        resizing: Resizing of the model.
    """

    def __init__(self, limits: ServingLimits, media: MediaRecipe, resizing: ImageResizing) -> None:
        self._limits = limits
        self._decode = partial(decode_within, limits=limits, media=media, resizing=resizing)
        self._lock = threading.Lock()
        self._pool = self._started()

    async def decode(self, media: LocatedSample) -> Clip:
        """Decode the media of a request in another process, which ends if the caller is cancelled.

        Raises:
            RequestError: A file exceeds a limit, or does not decode.
        """
        pool = self._pool
        try:
            return await _decoded(pool, media)
        except MediaError as error:
            raise invalid(str(error), code="invalid_media", param="messages") from None
        except RuntimeError:
            if pool.is_running:
                raise
            await asyncio.to_thread(self._replace, pool)
            return await self.decode(media)

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def _started(self) -> DecodePool:
        """Start a pool, and at once its processes, whose imports take seconds."""
        limits = self._limits
        pool = DecodePool(
            self._decode,
            workers=limits.decode_workers,
            limit_s=limits.decode_s,
            memory_bytes=limits.decode_bytes,
        )
        for _ in range(limits.decode_workers):
            pool.submit(media_sample("start", {}, {})).add_done_callback(pool.discard)
        return pool

    def _replace(self, broken: DecodePool) -> None:
        """Replace a pool that lost all processes while they were idle, which ends it as a whole."""
        with self._lock:
            if self._pool is not broken:
                return
            _LOG.warning("the processes that decode media have ended; they are started again")
            self._pool = self._started()
        broken.close()


async def _decoded(pool: DecodePool, media: LocatedSample) -> Clip:
    future: Future[Any] = pool.submit(media)
    done = asyncio.wrap_future(future)
    # the error is raised below, and asyncio would log it again
    done.add_done_callback(lambda one: one.cancelled() or one.exception())
    try:
        await asyncio.wait([done])
        return await asyncio.to_thread(pool.result, future, media.sample)
    except asyncio.CancelledError:
        pool.discard(future)
        raise
