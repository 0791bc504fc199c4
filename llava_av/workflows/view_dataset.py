"""Page with samples of a commit or of a folder."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets.commits import find_commit
from llava_av.datasets.contents import Contents, Selection
from llava_av.datasets.excerpt import excerpt_of, read_excerpt
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.history import read_entry
from llava_av.datasets.manifest import safe_path
from llava_av.datasets.media_blobs import download_files, find_places
from llava_av.datasets.media_checks import MediaChecks
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample
from llava_av.datasets.sources.folder import FolderScan, read_folder
from llava_av.processes import progress_reporter
from llava_av.report.dataset_view.inputs import ViewInputs
from llava_av.report.dataset_view.page import write_view
from llava_av.storage import ObjectStore
from llava_av.storage.store_errors import local_files

__all__ = ["View", "ViewLimits", "view_commit", "view_folder"]

_UNDECIDED = "undecided"
"""Split of samples of a folder that state none: a commit decides."""


@dataclass(frozen=True, kw_only=True)
class ViewLimits:
    """Limits of a page."""

    samples: int
    """Maximum number of samples."""
    bytes: int
    """Maximum base64 characters of embedded media and of previews together."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A page that was written."""

    title: str
    page: Path
    samples: int
    matching: int
    """Samples that meet the conditions, including those that are not on the page."""
    files: int
    """Media files on the page."""
    embedded: int


def view_commit(
    store: ObjectStore, dataset: str, page: Path, selection: Selection, limits: ViewLimits
) -> View:
    """Write the page of a commit; only the media on the page are downloaded, one after the other.

    Args:
        store: Store of the commit.
        dataset: `NAME`, `NAME@COMMIT` or `NAME@TAG`.
        page: File to write.
        selection: Conditions on the samples.
        limits: Limits of the page.

    Raises:
        CommitError: The commit does not exist, or a list of samples or files is lost or damaged.
        UserError: The selection names something that does not exist.
        StoreError: The object store or the local disk cannot be used.
    """
    commit = find_commit(store, dataset)
    entry, reader = read_entry(store, commit), commit.reader(store)
    origin = "unknown author" if entry is None else f"{entry.author}, {entry.at:%Y-%m-%d %H:%M %Z}"
    excerpt = read_excerpt(store, commit, selection, limits.samples)
    places = find_places(reader, excerpt.contents.files.values())
    with tempfile.TemporaryDirectory(prefix="llava-av-view-") as work:

        @contextlib.contextmanager
        def downloaded(row: FileRow) -> Iterator[Path]:
            download_files(store, [row], places, Path(work))
            yield Path(work) / row.path
            (Path(work) / row.path).unlink()

        inputs = ViewInputs(
            title=commit.title,
            origin=origin,
            message="" if entry is None else entry.message,
            splits={split: sum(one.rows for one in reader.samples(split).ranges) for split in reader.splits},
            kinds=_kinds(reader),
            files=sum(one.rows for one in reader.files.ranges),
            bytes=sum(one.bytes for one in reader.files.ranges),
            excerpt=excerpt,
            selection=_condition_text(selection),
            left_out=reader.quarantined,
            max_bytes=limits.bytes,
            open_file=downloaded,
            progress=progress_reporter("data", "media read"),
        )
        return _write(page, inputs)


def view_folder(
    folder: Path, page: Path, selection: Selection, limits: ViewLimits, cache_file: Path | None = None
) -> View:
    """Write the page of a folder; only the headers of its media are checked.

    Args:
        folder: The folder.
        page: File to write.
        selection: Conditions on the samples.
        limits: Limits of the page.
        cache_file: File with the results of earlier checks (see `FileCache`).

    Raises:
        DatasetError: The folder or its conversations do not exist, or it has no usable sample.
        UserError: The selection names something that does not exist.
    """
    with FileCache(cache_file) as cache:
        scan = read_folder(
            folder, progress_reporter("data", "files checked"), checks=MediaChecks(cache, depth="headers")
        )
    contents = _contents(scan)
    inputs = ViewInputs(
        title=folder.resolve().name,
        origin="folder",
        splits={split: len(samples) for split, samples in contents.samples.items()},
        kinds=Counter(row.kind for row in scan.rows),
        files=len(contents.files),
        bytes=sum(row.bytes for row in contents.files.values()),
        excerpt=excerpt_of(contents, selection, limits.samples, str(folder)),
        selection=_condition_text(selection),
        left_out=scan.quarantined,
        max_bytes=limits.bytes,
        open_file=lambda row: contextlib.nullcontext(folder / row.path),
        progress=progress_reporter("data", "media read"),
    )
    return _write(page, inputs)


def _write(page: Path, inputs: ViewInputs) -> View:
    with local_files(page):
        files, embedded = write_view(page, inputs)
    contents = inputs.excerpt.contents
    return View(
        title=inputs.title,
        page=page,
        samples=sum(map(len, contents.samples.values())),
        matching=inputs.excerpt.matching,
        files=files,
        embedded=embedded,
    )


def _kinds(reader: ContentReader) -> Mapping[str, int]:
    kinds: Counter[str] = Counter()
    for split in reader.splits:
        for one in reader.samples(split).ranges:
            kinds.update(one.kinds)
    return kinds


def _contents(scan: FolderScan) -> Contents:
    samples: dict[str, list[Sample]] = {}
    for sample in scan.samples:
        samples.setdefault(sample.split or _UNDECIDED, []).append(sample)
    paths = list(dict.fromkeys(path for row in scan.rows for path in row.media))
    found = [(path, file) for path, file in zip(paths, scan.files.find(paths), strict=True) if file]
    rows = [FileRow(safe_path(path), file.sha256, file.bytes) for path, file in found]
    return Contents(
        samples={split: tuple(own) for split, own in sorted(samples.items())},
        files={row.path: row for row in rows},
        facts={file.sha256: file.info for _, file in found},
    )


def _condition_text(selection: Selection) -> str:
    """Return the conditions of a selection as the end of a sentence."""
    parts = [f"split {selection.split}"] if selection.split else []
    parts += [f"media matching {selection.pattern!r}"] if selection.pattern else []
    parts += ["the given IDs"] if selection.samples else []
    return f" with {', '.join(parts)}" if parts else ""
