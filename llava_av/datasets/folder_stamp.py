"""Folders whose content is known to be that of a commit, because no file in them has changed since.

As long as the stamp of a folder is the same (`folder_files`), neither the conversations are parsed nor the
media looked up.
"""

from llava_av import __version__
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.folder_files import FolderFiles
from llava_av.media.info import CHECK_VERSION

__all__ = ["KnownFolder"]


class KnownFolder:
    """A folder, and the commit that has its content as it is now.

    Args:
        cache: Cache of earlier commits.
        files: Files of the folder.
        options: Everything else on which the content of its commit depends.
    """

    def __init__(self, cache: FileCache, files: FolderFiles, *options: object) -> None:
        self._cache, self.files = cache, files
        self._key = f"{files.root.resolve()} {options} {__version__} {CHECK_VERSION}"

    @property
    def commit(self) -> str | None:
        """ID of the commit; None if it is unknown."""
        return None if self.files.stamp is None else self._cache.committed(self._key, self.files.stamp)

    def remember(self, commit: str) -> None:
        """Remember the commit of the folder as it was when its files were found."""
        if self.files.stamp is not None:
            self._cache.remember_committed(self._key, self.files.stamp, commit)
