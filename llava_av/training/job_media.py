"""Media of a training job: the files of its datasets, streamed through the cache of the node."""

import contextlib
import os
from collections.abc import Iterator

from llava_av.datasets.blob_cache import BlobCache
from llava_av.datasets.media_facts import read_facts
from llava_av.datasets.ranges import FileRow
from llava_av.media.info import MediaInfo
from llava_av.training.job_context import Datasets, JobContext, mixed_folder
from llava_av.training.media_stream import DatasetFiles, MediaStream

__all__ = ["streamed_media"]


@contextlib.contextmanager
def streamed_media(job: JobContext, datasets: Datasets) -> Iterator[MediaStream]:
    """Provide the media of the datasets for a block; all processes of the node share one cache."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    with contextlib.closing(BlobCache(job.work / "cache", job.run.store)) as cache:
        files = _files(job, datasets)
        with contextlib.closing(MediaStream(cache, files, processes=processes)) as stream:
            yield stream


def _files(job: JobContext, datasets: Datasets) -> DatasetFiles:
    rows: dict[str, FileRow] = {}
    infos: dict[str, MediaInfo] = {}
    is_mixed = len(datasets.commits) > 1
    for commit in datasets.commits:
        place = f"{mixed_folder(commit)}/" if is_mixed else ""
        rows |= {f"{place}{row.path}": row for row in commit.reader(job.run.store).files}
        infos |= read_facts(job.run.store, commit)
    return DatasetFiles(row=rows.get, info=lambda row: infos.get(row.sha256))
