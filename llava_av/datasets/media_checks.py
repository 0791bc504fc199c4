"""Checks of media files at a chosen depth; content is decoded once, whatever its name, dataset or machine.

`full` decodes every file, `headers` reads the headers only, and `sample` decodes the files whose digests
start with a certain digit. Files that were not decoded are pending (`pending_checks`).

A result is looked for by the digest of the content: in the local cache, then among the results of all
machines in the store (`stored_checks`). Reading or writing one part of the latter takes as long as decoding
about 32 small images, so the first 32 are decoded instead. Their results stay in the local cache, unless
there are more of them or a commit of the dataset lists pending files; a failure is always stored. Content
with a result is never pending, and content that does not decode is refused at every depth.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llava_av.datasets.digest_index import DigestIndex
from llava_av.datasets.file_cache import FileCache, KnownFile, Stamp, check_key
from llava_av.datasets.stored_checks import add_results, bucket_of, read_stored_results, stored_buckets
from llava_av.media.info import MediaError, MediaInfo, UnreadableError
from llava_av.storage import ObjectStore

__all__ = [
    "SAMPLED_SHARE",
    "CheckDepth",
    "CheckedMedia",
    "MediaChecks",
    "check_decoding",
    "failure_of",
]

CheckDepth = Literal["full", "sample", "headers"]
"""Files that a check decodes: all, a share, or none."""
SAMPLED_SHARE = 16
"""One of this many files is decoded by `sample`."""
_SAMPLED_DIGIT = "0"
# Kinds of results in the cache; the first is that of earlier versions.
_DECODED, _HEADERS = "check", "headers"
_SAVED_AT_ONCE = 10_000
_DECODED_FIRST = 32
"""Small images without a local result that are decoded without using the store's results."""


@dataclass(frozen=True, kw_only=True)
class CheckedMedia:
    """Properties of a usable media file."""

    info: MediaInfo
    decoded: bool
    """False if only its headers were read."""


class MediaChecks:
    """Checks of media files, whose methods several threads may call.

    Args:
        cache: Local cache of results.
        store: Store with the results of all machines; None uses only the cache.
        depth: Files to decode.
        again: True to check content again that is in the store's results.
        has_pending: Returns whether commits list pending files, which are pending until their results are
            stored.
    """

    def __init__(
        self,
        cache: FileCache,
        store: ObjectStore | None = None,
        *,
        depth: CheckDepth = "full",
        again: bool = False,
        has_pending: Callable[[], bool] = lambda: False,
    ) -> None:
        self.cache = cache
        self._has_pending = has_pending
        self._store, self._depth = store, depth
        self._lock = threading.Lock()
        self._again = again
        self._stored: frozenset[str] | None = None
        self._fetched: set[str] = set()
        self._decoded_first = 0
        self._new, self._few = DigestIndex(), DigestIndex()

    def check(self, path: Path, known: KnownFile) -> CheckedMedia:
        """Check a file whose digest is known.

        Raises:
            MediaError: The file is damaged or incomplete.
        """
        began_ns = time.time_ns()

        def is_same() -> bool:
            with contextlib.suppress(OSError):
                return known.stamp.is_settled(began_ns) and Stamp.of(path) == known.stamp
            return False

        return self._checked(path, known.sha256, is_same)

    def check_own(self, path: Path | str, sha256: str, content: bytes | None = None) -> CheckedMedia:
        """Check content that does not change; errors as for `check`.

        Args:
            path: A file that only the caller writes; any file if `content` is given.
            sha256: Digest of the content.
            content: Content of an image that was read already.
        """
        return self._checked(path, sha256, lambda: True, content)

    def known(self, path: Path | str, sha256: str) -> CheckedMedia | None:
        """Return the result for content without reading a file; None if the file must be read.

        Args:
            path: Name of the file for messages.
            sha256: Digest of the content.

        Raises:
            MediaError: The content is known to be damaged or incomplete.
        """
        return self._known(path, sha256, self._fetch)

    def _known(self, path: Path | str, sha256: str, fetch: Callable[[str], bool]) -> CheckedMedia | None:
        if (found := self._decoded(sha256, fetch)) is not None:
            return CheckedMedia(info=_usable(path, found), decoded=True)
        if not self._decodes(sha256) and (found := _parsed(self.cache.check_result(_HEADERS, sha256))):
            return CheckedMedia(info=_usable(path, found), decoded=False)
        return None

    def adopt(self, facts: Mapping[str, str]) -> None:
        """Take over facts of another cache; results of decoding are saved like those of this object."""
        self.cache.copy(facts)
        digests = (key.rpartition(" ")[2] for key in facts)
        with self._lock:
            self._new.add(one for one in digests if check_key(_DECODED, one) in facts)

    def save(self) -> None:
        """Add the results of this object's decoding to those of all machines.

        Raises:
            StoreError: The object store cannot be used.
        """
        if len(self._few) and (self._decoded_first > _DECODED_FIRST or self._has_pending()):
            self._new.add(self._few)
        if self._store is not None and len(self._new):
            _, places = self._new.ranks()
            for start in range(0, len(places), _SAVED_AT_ONCE):
                batch = self._new.at(places[start : start + _SAVED_AT_ONCE])
                found = {digest: self.cache.check_result(_DECODED, digest) for digest in batch}
                results = {digest: text for digest, text in found.items() if text is not None}
                add_results(self._store, results, self._stored)
        self._new, self._few = DigestIndex(), DigestIndex()

    def _checked(
        self, path: Path | str, sha256: str, is_same: Callable[[], bool], content: bytes | None = None
    ) -> CheckedMedia:
        decodes, is_first = self._decodes(sha256), False

        def fetch(bucket: str) -> bool:
            nonlocal is_first
            is_first = content is not None and decodes and self._is_among_first()
            return not is_first and self._fetch(bucket)

        if (found := self._known(path, sha256, fetch)) is not None:
            return found
        result = _decode(path, content) if decodes else _read_headers(path, content)
        if is_same():
            self.cache.remember_check(_DECODED if decodes else _HEADERS, sha256, _text(result))
            if decodes:
                # Other machines must refuse content that does not decode, at every depth.
                is_few = is_first and isinstance(result, MediaInfo)
                with self._lock:
                    (self._few if is_few else self._new).add([sha256])
        return CheckedMedia(info=_usable(path, result), decoded=decodes)

    def _decodes(self, sha256: str) -> bool:
        return self._depth == "full" or (self._depth == "sample" and sha256.startswith(_SAMPLED_DIGIT))

    def _decoded(self, sha256: str, fetch: Callable[[str], bool]) -> MediaInfo | str | None:
        """Return the properties of content that was decoded, or the reason why it cannot be used."""
        if (found := _parsed(self.cache.check_result(_DECODED, sha256))) is None:
            with self._lock:
                may_exist = fetch(bucket_of(sha256))
            if may_exist:
                found = _parsed(self.cache.check_result(_DECODED, sha256))
        return found

    def _fetch(self, bucket: str) -> bool:
        """Copy one part of the store's results to the cache, once; return whether there is such a part."""
        if self._store is None or self._again:
            return False
        if self._stored is None:
            self._stored = frozenset(stored_buckets(self._store))
        if bucket in self._stored and bucket not in self._fetched:
            results = read_stored_results(self._store, bucket)
            self.cache.copy({check_key(_DECODED, digest): text for digest, text in results.items()})
            self._fetched.add(bucket)
        return bucket in self._stored

    def _is_among_first(self) -> bool:
        """Count a small image that must be decoded or fetched, and check whether it is one of the first."""
        self._decoded_first += 1
        return not self._again and self._decoded_first <= _DECODED_FIRST


def check_decoding(path: Path) -> str:
    """Decode a file and return the result as text: its properties, or the reason why it cannot be used.

    Raises:
        UnreadableError: This machine cannot read it.
    """
    return _text(_decode(path, None))


def _decode(path: Path | str, content: bytes | None) -> MediaInfo | str:
    """Return the properties of a file that decodes, or the reason why it cannot be used."""
    # Decoders are slow to load, and only checks of files need them.
    from llava_av.media import check

    return _result(check.check_media, path, content)


def _read_headers(path: Path | str, content: bytes | None) -> MediaInfo | str:
    from llava_av.media import check

    return _result(check.check_headers, path, content)


def _result(
    read: Callable[[Path | str, bytes | None], MediaInfo], path: Path | str, content: bytes | None
) -> MediaInfo | str:
    try:
        return read(path, content)
    except UnreadableError:
        raise
    except MediaError as error:
        return error.reason


def _text(result: MediaInfo | str) -> str:
    return json.dumps({"error": result} if isinstance(result, str) else vars(result))


def failure_of(text: str) -> str | None:
    """Return the reason why content with a result cannot be used; None if it can."""
    found = _parsed(text)
    return found if isinstance(found, str) else None


def _parsed(text: str | None) -> MediaInfo | str | None:
    """Return the properties or the reason of a result; None if there is none that this version reads."""
    if text is None:
        return None
    with contextlib.suppress(TypeError, ValueError):
        fields = json.loads(text)
        return str(fields["error"]) if "error" in fields else MediaInfo(**fields)
    return None


def _usable(path: Path | str, found: MediaInfo | str) -> MediaInfo:
    if isinstance(found, str):
        raise MediaError(path, found)
    return found
