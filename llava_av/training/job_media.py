"""Media of a training job: the files of its datasets, streamed through the cache of the node."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from llava_av.datasets.commit_files import CommitFile, CommitFiles
from llava_av.datasets.media_stream import CACHE_FOLDER, MediaStream, streamed_files
from llava_av.training.job_context import Datasets, JobContext, mixed_folder

__all__ = ["streamed_media"]


def streamed_media(job: JobContext, datasets: Datasets) -> AbstractContextManager[MediaStream]:
    """Provide the media of the datasets for a block; see `streamed_files`."""
    return streamed_files(_finder(job, datasets), job.work)


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
