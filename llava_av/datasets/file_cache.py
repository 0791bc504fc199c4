"""Local cache of the facts that a commit needs about files, so that unchanged files are not read again.

It has two parts. The first maps a file's stamp (path, size, times, inode) to the digest of its content, as
Git's index does. A stamp is stored only if the file was last changed well before it was read, because a later
change within the resolution of the file system's clock would leave the stamp as it was. The second maps the
digest of content to the result of its check (`media_checks`), whatever its name. Both are also kept for whole
blocks of rows (`sources.sample_rows`) and of files (`folder_files`).

The cache is an SQLite file that may be deleted at any time. Each row has a checksum, and a row without the
right one counts as absent. A file that SQLite cannot use is replaced, and a cache that cannot be written only
makes the next commit slower.
"""

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from llava_av import __version__
from llava_av.media.info import CHECK_VERSION
from llava_av.storage import file_entity_tag, file_sha256

__all__ = ["FileCache", "KnownFile", "Stamp", "check_key"]

_LOG = logging.getLogger(__name__)
_SCHEMA = "CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL, seal BLOB NOT NULL)"
_FLUSH_ROWS, _FLUSH_CHARACTERS = 500, 8 << 20
_TEMPORARY = ""
_BUSY_S = 10.0
# Clocks of file systems that store fractions of a second advance by a timer tick, others by 1 or 2 s.
_TICK_NS, _COARSE_TICK_NS = 100_000_000, 2_000_000_000


class Stamp(NamedTuple):
    """Properties of a file that change when its content does."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, path: Path | str) -> "Stamp":
        """Return the stamp of a file.

        Raises:
            OSError: The file does not exist or cannot be accessed.
        """
        status = os.stat(path)
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)

    def is_settled(self, read_ns: int) -> bool:
        """Check whether a change after `read_ns` would change the stamp."""
        last_ns = max(self.modified_ns, self.changed_ns)
        has_fraction = self.modified_ns % 1_000_000_000 and self.changed_ns % 1_000_000_000
        return read_ns - last_ns > (_TICK_NS if has_fraction else _COARSE_TICK_NS)


@dataclass(frozen=True, kw_only=True)
class KnownFile:
    """Digest of a file's content, and the file's stamp before it was read."""

    sha256: str
    stamp: Stamp


class FileCache:
    """Facts about files; safe for threads, and for several processes with one file.

    Args:
        file: SQLite file, created if necessary; None: the cache is temporary.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._pending: dict[str, str] = {}
        self._pending_characters = 0
        self._file = file
        self._database = _opened(file)

    def __enter__(self) -> Self:
        """Return the cache itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Write new facts, also after an error, and close the file."""
        with self._lock:
            self._flush()
            self._database.close()

    def identify(self, path: Path, read: Callable[[Path], str] = file_sha256) -> KnownFile:
        """Return the digest of a file; the file is read unless its stamp is known.

        Args:
            path: The file.
            read: Returns the SHA-256 of its content as 64 hex digits.

        Raises:
            OSError: The file cannot be read.
        """
        stamp = Stamp.of(path)
        digest = self._fact("sha256", path, stamp, read)
        return KnownFile(sha256=digest, stamp=stamp)

    def entity_tag(self, path: Path, stamp: Stamp) -> str:
        """Return the entity tag that an object with the file's content gets (see `file_entity_tag`).

        Raises:
            OSError: The file cannot be read.
        """
        return self._fact("etag", path, stamp, file_entity_tag)

    def check_result(self, kind: str, sha256: str) -> str | None:
        """Return the result that `remember_check` was called with for content; see `media_checks`."""
        return self._get(check_key(kind, sha256))

    def remember_check(self, kind: str, sha256: str, result: str) -> None:
        """Remember the result of a check of content."""
        self._put(check_key(kind, sha256), result)

    def copy(self, facts: Mapping[str, str]) -> None:
        """Remember facts of another cache, by their keys."""
        for key, value in facts.items():
            FileCache._put(self, key, value)

    def committed(self, folder: str, stamp: str) -> str | None:
        """Return the ID of the commit that `remember_committed` was called with; see `folder_stamp`."""
        return self._get(f"folder {stamp} {folder}")

    def remember_committed(self, folder: str, stamp: str, commit: str) -> None:
        """Remember the commit that has the content of a folder with a stamp."""
        self._put(f"folder {stamp} {folder}", commit)

    def checked_rows(self, digests: Sequence[str]) -> dict[str, str]:
        """Return the texts of `remember_rows` for some digests; see `sources.sample_rows`."""
        return self._get_all(_rows_key, digests)

    def remember_rows(self, digest: str, text: str) -> None:
        """Remember the checked rows of a text with a digest."""
        self._put(_rows_key(digest), text)

    def checked_files(self, digests: Sequence[str]) -> dict[str, str]:
        """Return the texts of `remember_files` for some digests; see `folder_files`."""
        return self._get_all(_files_key, digests)

    def remember_files(self, digest: str, text: str) -> None:
        """Remember the results of files whose names and stamps have a digest."""
        self._put(_files_key(digest), text)

    def object_digest(self, address: str, entity_tag: str) -> str | None:
        """Return the digest that `remember_digest` was called with for a version of a stored object."""
        return self._get(f"digest {entity_tag} {address}")

    def remember_digest(self, address: str, entity_tag: str, sha256: str) -> None:
        """Remember the digest of a version of a stored object, whose content was read."""
        self._put(f"digest {entity_tag} {address}", sha256)

    def is_verified(self, address: str, entity_tag: str) -> bool:
        """Check whether `remember_verified` was called for a version of a stored object."""
        return self._get(f"object {address}") == entity_tag

    def remember_verified(self, address: str, entity_tag: str) -> None:
        """Remember that the content of a stored object was read and compared."""
        self._put(f"object {address}", entity_tag)

    def _fact(self, kind: str, path: Path, stamp: Stamp, read: Callable[[Path], str]) -> str:
        name = os.path.abspath(path)
        if not name.isascii():
            name = os.fsencode(name).decode(errors="backslashreplace")
        key = f"{kind} {' '.join(map(str, stamp))} {name}"
        if (found := self._get(key)) is not None:
            return found
        began_ns = time.time_ns()
        value = read(path)
        if stamp.is_settled(began_ns) and Stamp.of(path) == stamp:
            self._put(key, value)
        return value

    def _get(self, key: str) -> str | None:
        with self._lock:
            if key in self._pending:
                return self._pending[key]
            row = None
            with self._tolerant():
                row = self._database.execute("SELECT value, seal FROM facts WHERE key = ?", (key,)).fetchone()
        return row[0] if row is not None and row[1] == _seal(key, row[0]) else None

    def _get_all(self, key_of: Callable[[str], str], digests: Sequence[str]) -> dict[str, str]:
        """Return the values of some digests; one query locks the file and looks for a journal only once."""
        wanted = {key_of(digest): digest for digest in digests}
        query = f"SELECT key, value, seal FROM facts WHERE key IN ({','.join('?' * len(wanted))})"
        with self._lock:
            found = {key: self._pending[key] for key in wanted.keys() & self._pending.keys()}
            rows: list[tuple[str, str, bytes]] = []
            with self._tolerant():
                rows = self._database.execute(query, tuple(wanted)).fetchall()
        found = {key: value for key, value, checksum in rows if checksum == _seal(key, value)} | found
        return {wanted[key]: value for key, value in found.items()}

    def _put(self, key: str, value: str) -> None:
        with self._lock:
            self._pending[key] = value
            self._pending_characters += len(value)
            if len(self._pending) >= _FLUSH_ROWS or self._pending_characters >= _FLUSH_CHARACTERS:
                self._flush()

    def _flush(self) -> None:
        rows = [(key, value, _seal(key, value)) for key, value in self._pending.items()]
        with self._tolerant(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", rows)
        self._pending.clear()
        self._pending_characters = 0

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Continue with a temporary cache after a failure of the file, and delete a damaged file."""
        try:
            yield
        except sqlite3.Error as error:
            _LOG.info("the cache %s is no longer used: %s", self._file, error)
            self._database.close()
            self._database = _connected(_TEMPORARY)
            if self._file is not None and not isinstance(error, sqlite3.OperationalError):
                self._file.unlink(missing_ok=True)


def check_key(kind: str, sha256: str) -> str:
    """Return the key of the result of a check of content."""
    return f"{kind} {CHECK_VERSION} {sha256}"


def _rows_key(digest: str) -> str:
    return f"rows {__version__} {digest}"


def _files_key(digest: str) -> str:
    return check_key("files", digest)


def _seal(key: str, value: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{value}".encode(), digest_size=8).digest()


def _opened(file: Path | None) -> sqlite3.Connection:
    if file is None:
        return _connected(_TEMPORARY)
    for _ in range(2):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return _connected(str(file))
        except sqlite3.OperationalError as error:
            _LOG.info("the cache %s is not used: %s", file, error)
            break
        except sqlite3.DatabaseError as error:
            _LOG.info("the cache %s is damaged and replaced: %s", file, error)
            file.unlink(missing_ok=True)
        except OSError as error:
            _LOG.info("the cache %s is not used: %s", file, error.strerror)
            break
    return _connected(_TEMPORARY)


def _connected(name: str) -> sqlite3.Connection:
    database = sqlite3.connect(name, timeout=_BUSY_S, check_same_thread=False)
    try:
        # A row that a power failure damages has no valid checksum.
        database.execute("PRAGMA synchronous = OFF")
        with database:
            database.execute(_SCHEMA)
        database.execute("SELECT * FROM facts LIMIT 1").fetchall()
    except sqlite3.Error:
        database.close()
        raise
    return database
