"""Commits of users' folders, without unusable samples."""

import logging
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from llava_av.datasets.commits import Commit, Head, OnConflict, read_head
from llava_av.datasets.committing import commit_content
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.folder_files import FolderFiles
from llava_av.datasets.folder_stamp import KnownFolder
from llava_av.datasets.media_checks import CheckDepth, MediaChecks
from llava_av.datasets.media_facts import has_facts, has_pending, write_facts
from llava_av.datasets.previous_version import Previous, name_of_folder
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.sources.folder import FolderScan, NoUsableSampleError, Quarantined, read_folder
from llava_av.datasets.sources.remote import RemoteFolder
from llava_av.datasets.sources.rows import DatasetError
from llava_av.errors import printable
from llava_av.plurals import count_of
from llava_av.processes import progress_reporter
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_records import recording
from llava_av.workflows.folder_content import Shares, checked_sources, folder_content, known_folder

__all__ = ["DEMO", "commit_folder", "is_demo", "require_own_name"]

_LOG = logging.getLogger(__name__)

DEMO = "demo"
_DEMO_NAME = re.compile(rf"{DEMO}-\d+x\d+-seed\d+")


def is_demo(dataset_name: str) -> bool:
    """Return whether a name is reserved for the demonstration dataset."""
    return _DEMO_NAME.fullmatch(dataset_name) is not None


def commit_folder(
    store: ObjectStore,
    folder: Path | RemoteFolder,
    name: str,
    shares: Shares,
    *,
    max_audio_s: float | None = None,
    allow_shared_media: bool = False,
    on_conflict: OnConflict = "fail",
    depth: CheckDepth = "full",
    again: bool = False,
    cache_file: Path | None = None,
    message: str = "",
    author: str = "",
) -> Commit:
    """Check a user's folder and commit its valid samples, split by media or by the samples' own `split`.

    Args:
        store: Store of the commit.
        folder: The folder, or a prefix in S3.
        name: Name of the dataset; the folder's own if empty.
        shares: Share to hold out, and maximum share of bad samples.
        max_audio_s: Seconds of audio per clip that the recipe uses, to report longer clips; None: no recipe.
        allow_shared_media: True if held-out samples may share media with training samples.
        on_conflict: Reaction to a commit that another writer makes meanwhile.
        depth: Media files to decode; the others are recorded as pending.
        again: True to check media again whose results are in the store.
        cache_file: File with the digests of unchanged files and the results of checks (see `FileCache`).
        message: Message for the history of the dataset.
        author: Author for the history; git's user or the current actor if empty.

    Raises:
        DatasetError: The folder or its conversations do not exist, more samples than `max_bad_share` are
            bad, the name is reserved for the demonstration, or the folder's name gives no valid name.
        SplitError: Every split has shared media.
    """
    chosen = _dataset_name(folder, name)
    head = read_head(store, chosen)
    with FileCache(cache_file) as cache:
        known = known_folder(cache, folder, chosen, shares, allow_shared_media=allow_shared_media)
        if (same := _same_commit(store, head, known, again=again)) is not None:
            _warn_of_message(same, message)
            return replace(same, unchanged=True)
        pending_listed = partial(has_pending, store, chosen)
        checks = MediaChecks(cache, store, depth=depth, again=again, has_pending=pending_listed)
        scan = _scan(folder, checks, known.files if known else None, shares.max_bad_share, max_audio_s)
        content = folder_content(folder, scan, shares, allow_shared_media=allow_shared_media)
        if head.commit is not None:
            _compare(store, head.commit, folder, content, named=bool(name))
        commit = partial(commit_content, store, chosen, content, checked_sources(folder, cache), cache=cache)
        facts, pending = scan.files.facts, scan.files.pending
        record = recording(store, message=message, author=author, media=facts, pending=pending)
        progress = progress_reporter("data", "files uploaded")
        committed = commit(before_head=record, head=head, on_conflict=on_conflict, progress=progress)
        if committed.unchanged:
            _report_unchanged(store, committed, scan, message)
        # Omissions are reported each time, and pending media are decoded at another depth.
        if known is not None and not scan.quarantined and not pending and on_conflict != "rebase":
            known.remember(committed.id)
    return committed


def _same_commit(store: ObjectStore, head: Head, known: KnownFolder | None, *, again: bool) -> Commit | None:
    """Return the newest commit if the folder is known to be that commit and its media are all checked."""
    if known is None or known.commit != head.id or again or head.commit is None:
        return None
    return head.commit if has_facts(store, head.commit) else None


def _dataset_name(folder: Path | RemoteFolder, name: str) -> str:
    chosen = name or name_of_folder(folder if isinstance(folder, Path) else Path(folder.name))
    require_own_name(chosen)
    return chosen


def require_own_name(name: str) -> None:
    """Require that a name is not reserved for the demonstration dataset.

    Raises:
        DatasetError: It is reserved.
    """
    if is_demo(name):
        raise DatasetError(f"{name} is a name reserved for the demonstration dataset: use another name")


def _scan(
    folder: Path | RemoteFolder,
    checks: MediaChecks,
    files: FolderFiles | None,
    max_bad_share: float,
    max_audio_s: float | None,
) -> FolderScan:
    """Read a folder, report omitted samples, and require that their share is within the limit."""
    progress = progress_reporter("data", "files checked")
    try:
        if isinstance(folder, RemoteFolder):
            scan = folder.read(progress, checks)
        else:
            scan = read_folder(folder, progress, checks=checks, files=files)
    except NoUsableSampleError as error:
        _log_left_out(error.quarantined)
        raise
    finally:
        checks.save()
    _report(scan, max_audio_s)
    _require_few_bad(folder, scan, max_bad_share)
    return scan


def _compare(
    store: ObjectStore,
    commit: Commit,
    folder: Path | RemoteFolder,
    content: ContentReader,
    *,
    named: bool,
) -> None:
    """Refuse an unrelated folder whose name was not given, and report samples that moved."""
    previous = Previous(commit=commit, content=commit.reader(store))
    if not named:
        previous.require_related(folder, content)
    _report_moved(previous, content)


def _warn_of_message(commit: Commit, message: str) -> None:
    if message:
        _LOG.warning("the message is not stored: %s has no change since %s", commit.name, commit.id[:16])


def _report_unchanged(store: ObjectStore, commit: Commit, scan: FolderScan, message: str) -> None:
    _warn_of_message(commit, message)
    if not has_facts(store, commit):
        write_facts(store, commit, scan.files.facts, scan.files.pending)


def _log_left_out(quarantined: tuple[Quarantined, ...]) -> None:
    for bad in quarantined:
        _LOG.warning("left out: %s: %s", printable(bad.file), printable(bad.reason))


def _report(scan: FolderScan, max_audio_s: float | None) -> None:
    """Log which files are left out and which are used only in part."""
    _log_left_out(scan.quarantined)
    if outside := scan.answers_outside_choices:
        _LOG.warning(
            "the answer contains none of the choices in %s (the first is sample %s), so evaluation "
            "counts every reply as wrong: correct answer or choices",
            count_of(len(outside), "sample"),
            printable(outside[0]),
        )
    if scan.videos_without_audio:
        silent = count_of(scan.videos_without_audio, "video")
        _LOG.warning("only frames are used of %s without audio track", silent)
    longer = (
        sum(seconds > max_audio_s for seconds in scan.audio_durations_s) if max_audio_s is not None else 0
    )
    if longer:
        _LOG.warning(
            "only the start is used of %s with more audio than the recipe's media.max_audio_s=%g",
            count_of(longer, "file"),
            max_audio_s,
        )


def _report_moved(previous: Previous, content: ContentReader) -> None:
    moved = previous.moved(content)
    if moved:
        _LOG.warning(
            "since commit %s, %s moved to held_out and %d to train; "
            "compare only models that use the same commit",
            previous.commit.id[:16],
            count_of(moved["held_out"], "sample"),
            moved["train"],
        )


def _require_few_bad(folder: Path | RemoteFolder, scan: FolderScan, max_bad_share: float) -> None:
    if scan.bad_share <= max_bad_share:
        return
    first = scan.quarantined[0]
    total = scan.bad_samples + len(scan.rows)
    raise DatasetError(
        f"{scan.bad_samples} of {count_of(total, 'sample')} of {folder} cannot be used "
        f"({scan.bad_share:.0%}), more than data.max_bad_share={max_bad_share:g} allows; correct them, "
        "or raise the limit with --max-bad-share of `data commit`, or --set data.max_bad_share=SHARE of "
        "`run` and `open-run`; "
        f"the first is {first.file}: {first.reason}"
    )
