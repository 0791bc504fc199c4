"""Media of a training job: the files of its datasets, streamed through the cache of the node."""

import contextlib
import os
from collections.abc import Callable, Iterator

from llava_av.datasets.blob_cache import BlobCache
from llava_av.datasets.commit_files import CommitFile, CommitFiles
from llava_av.training.job_context import CACHE_FOLDER, Datasets, JobContext, mixed_folder
from llava_av.training.media_stream import MediaStream

__all__ = ["streamed_media"]


@contextlib.contextmanager
def streamed_media(job: JobContext, datasets: Datasets) -> Iterator[MediaStream]:
    """Provide the media of the datasets for a block; all processes of the node share one cache."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    with contextlib.closing(BlobCache(job.work / CACHE_FOLDER)) as cache:
        find = _finder(job, datasets)
        with contextlib.closing(MediaStream(cache, find, processes=processes)) as stream:
            yield stream


def _finder(job: JobContext, datasets: Datasets) -> Callable[[str], CommitFile | None]:
    """Return the function that finds a file of the datasets by its normalized path."""
    folder = job.work / CACHE_FOLDER / "files"
    by_folder = {mixed_folder(one): CommitFiles(job.run.store, one, folder) for one in datasets.commits}
    if len(by_folder) == 1:
        [only] = by_folder.values()
        return only.find

    def find(path: str) -> CommitFile | None:
        place, _, own = path.partition("/")
        return by_folder[place].find(own)

    return find
