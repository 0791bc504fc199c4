"""Warning about media files of a commit that were not decoded."""

import logging

from llava_av.datasets.commits import Commit
from llava_av.datasets.pending_checks import pending_files
from llava_av.plurals import count_of
from llava_av.storage import ObjectStore

__all__ = ["warn_of_pending"]

_LOG = logging.getLogger(__name__)


def warn_of_pending(store: ObjectStore, commit: Commit) -> None:
    """Warn of the media files of a commit that were not decoded, or that do not decode."""
    found = pending_files(store, commit)
    name = commit.title
    if found.digests:
        _LOG.warning(
            "dataset %s: %s not decoded yet; training leaves out samples that fail: decode them first with "
            "`llava-av data verify %s --decode`",
            name,
            count_of(len(found.digests), "media file"),
            name,
        )
    if found.failures:
        _LOG.warning(
            "dataset %s: %s cannot be used, so training leaves out their samples; commit the folder again to "
            "leave them out there",
            name,
            count_of(len(found.failures), "media file"),
        )
