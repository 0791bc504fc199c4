"""Request for a dataset commit, which each process of an ingest receives."""

import hashlib
import json
from pathlib import Path

from llava_av.datasets.commits import Commit, OnConflict
from llava_av.datasets.media_checks import CheckDepth
from llava_av.datasets.sources.remote import SCHEME, RemoteFolder, remote_folder
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_data import commit_folder

__all__ = ["CommitRequest", "CommitSummary"]

_ID_DIGITS = 16


class CommitRequest(FrozenModel):
    """Arguments of `commit_folder`."""

    source: str
    """Folder, or `s3://BUCKET/PREFIX`."""
    name: str = ""
    held_out_share: float
    max_bad_share: float
    allow_shared_media: bool = False
    on_conflict: OnConflict = "fail"
    depth: CheckDepth = "full"
    again: bool = False
    message: str = ""
    author: str = ""
    cache_file: str = ""
    """File cache of this machine; empty for none."""

    @property
    def is_remote(self) -> bool:
        """Check whether the source is in S3."""
        return self.source.startswith(SCHEME)

    @property
    def ingest_id(self) -> str:
        """Return the ID under which results of the source are kept, so that a restart finds them."""
        parts = json.dumps([self.source.rstrip("/"), self.name, self.again])
        return hashlib.sha256(parts.encode()).hexdigest()[:_ID_DIGITS]

    def open_source(self, store: ObjectStore) -> Path | RemoteFolder:
        """Return the folder or the prefix; errors as for `remote_folder`."""
        return remote_folder(self.source, store) if self.is_remote else Path(self.source)

    def commit(self, store: ObjectStore, cache_file: Path | None) -> "CommitSummary":
        """Commit the source; errors as for `commit_folder`."""
        commit = commit_folder(
            store,
            self.open_source(store),
            self.name,
            self,
            allow_shared_media=self.allow_shared_media,
            on_conflict=self.on_conflict,
            depth=self.depth,
            again=self.again,
            cache_file=cache_file,
            message=self.message,
            author=self.author,
        )
        return CommitSummary.of(commit)


class CommitSummary(FrozenModel):
    """Result of a commit."""

    name: str
    commit: str
    parent: str | None
    unchanged: bool
    uploaded_files: int
    uploaded_bytes: int

    @classmethod
    def of(cls, commit: Commit) -> "CommitSummary":
        """Return the summary of a commit."""
        return cls(
            name=commit.name,
            commit=commit.id,
            parent=commit.parent,
            unchanged=commit.unchanged,
            uploaded_files=commit.uploaded_files,
            uploaded_bytes=commit.uploaded_bytes,
        )
