"""Commits of the demonstration dataset and of users' folders, without unusable samples."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llava_av.datasets.commits import Commit, Head, OnConflict, commit_dataset, read_head
from llava_av.datasets.demo import make_demo
from llava_av.datasets.extraction import left_out_before
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.folder_stamp import KnownFolder
from llava_av.datasets.manifest import QuarantinedEntry
from llava_av.datasets.media_checks import CheckDepth, MediaChecks
from llava_av.datasets.media_facts import has_facts, write_facts
from llava_av.datasets.previous_version import Previous, name_of_folder
from llava_av.datasets.schema import Sample
from llava_av.datasets.sources.folder import FolderScan, NoUsableSampleError, Quarantined, read_folder
from llava_av.datasets.sources.remote import RemoteFolder
from llava_av.datasets.sources.rows import DatasetError
from llava_av.datasets.split import split_samples
from llava_av.errors import printable
from llava_av.plurals import count_of
from llava_av.processes import progress_reporter, report_progress
from llava_av.recipe import DataRecipe, Recipe
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_records import recording
from llava_av.workflows.runtime.workspace import Workspace

__all__ = [
    "DEMO",
    "commit_demo",
    "commit_folder",
    "is_demo",
    "known_folder",
    "plain_splits",
    "require_own_name",
]

_LOG = logging.getLogger(__name__)

DEMO = "demo"
_DEMO_NAME = re.compile(rf"{DEMO}-\d+x\d+-seed\d+")


def commit_demo(store: ObjectStore, workspace: Workspace, recipe: Recipe) -> Commit:
    """Create the demonstration dataset, unless it exists, and commit it.

    Its name contains everything that it depends on, so that runs with other seeds or sizes do not change its
    commit.
    """
    data = recipe.data
    name = f"{DEMO}-{data.demo_train_blocks}x{data.demo_held_out_blocks}-seed{recipe.seed}"
    root = workspace.work / name
    splits = make_demo(
        root,
        seed=recipe.seed,
        train_blocks=data.demo_train_blocks,
        held_out_blocks=data.demo_held_out_blocks,
        progress=lambda done, total: report_progress("data", done, total, "clips created"),
    )
    named = {str(split): samples for split, samples in splits.items()}
    return commit_dataset(
        store,
        name,
        root,
        named,
        (),
        before_head=recording(store),
        progress=progress_reporter("data", "files uploaded"),
    )


def is_demo(dataset_name: str) -> bool:
    """Return whether a name is reserved for the demonstration dataset."""
    return _DEMO_NAME.fullmatch(dataset_name) is not None


def commit_folder(
    store: ObjectStore,
    folder: Path | RemoteFolder,
    name: str,
    data: DataRecipe,
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
        data: Share to hold out, and maximum share of bad samples.
        max_audio_s: Seconds of audio per clip that the recipe uses, to report longer clips; None without a
            recipe.
        allow_shared_media: True if held-out samples may share media with training samples.
        on_conflict: Reaction to a commit that another writer makes meanwhile.
        depth: Media files to decode; the others are recorded as pending.
        again: True to check media again whose results are in the store.
        cache_file: File with the digests of unchanged files and the results of checks (see `FileCache`).
        message: Message for the history of the dataset.
        author: Author for the history; git's user or the current actor if empty.

    Raises:
        DatasetError: The folder or its conversations do not exist, more samples than `data.max_bad_share` are
            bad, the name is reserved for the demonstration, or the folder's name gives no valid name.
        SplitError: Every split has shared media.
    """
    chosen = _dataset_name(folder, name)
    head = read_head(store, chosen)
    with FileCache(cache_file) as cache:
        known = known_folder(cache, folder, chosen, data, allow_shared_media=allow_shared_media)
        same = head.commit if known is not None and known.commit == head.id and not again else None
        if same is not None and has_facts(store, same):
            _warn_of_message(same, message)
            return replace(same, unchanged=True)
        checks = MediaChecks(cache, store, depth=depth, again=again)
        scan = _scan(folder, checks, data.max_bad_share, max_audio_s)
        plain = plain_splits(scan, data.held_out_share, allow_shared_media=allow_shared_media)
        if head.commit is not None:
            _compare(store, head.commit, folder, scan, plain, named=bool(name))
        content = _Content(folder=folder, scan=scan, splits=plain)
        record = recording(store, message=message, author=author, media=scan.facts, pending=scan.pending)
        committed = content.commit(store, chosen, head, cache, before_head=record, on_conflict=on_conflict)
        if committed.unchanged:
            _report_unchanged(store, committed, scan, message)
        # Omissions are reported each time, and pending media are decoded at another depth.
        if known is not None and not scan.quarantined and not scan.pending and on_conflict != "rebase":
            known.remember(committed.id)
    return committed


def known_folder(
    cache: FileCache, folder: Path | RemoteFolder, name: str, data: DataRecipe, *, allow_shared_media: bool
) -> KnownFolder | None:
    """Return the record of a folder and its last commit; None for a prefix in S3."""
    if isinstance(folder, RemoteFolder):
        return None
    return KnownFolder(cache, folder, name, data.held_out_share, allow_shared_media)


@dataclass(frozen=True, kw_only=True)
class _Content:
    """Checked content of a folder or a prefix."""

    folder: Path | RemoteFolder
    scan: FolderScan
    splits: Mapping[str, tuple[Sample, ...]]

    def commit(
        self,
        store: ObjectStore,
        name: str,
        head: Head,
        cache: FileCache,
        *,
        before_head: Callable[[Commit], None],
        on_conflict: OnConflict,
    ) -> Commit:
        """Commit the content; see `commit_dataset`."""
        folder = self.folder
        return commit_dataset(
            store,
            name,
            folder if isinstance(folder, Path) else Path(folder.name),
            self.splits,
            self._left_out(),
            before_head=before_head,
            head=head,
            on_conflict=on_conflict,
            cache=cache,
            media=folder.media(self.splits, self.scan, cache) if isinstance(folder, RemoteFolder) else None,
            progress=progress_reporter("data", "files uploaded"),
        )

    def _left_out(self) -> tuple[Quarantined, ...] | tuple[QuarantinedEntry, ...]:
        """Return the omissions; a copy of a commit lacks them, but has the same content."""
        if self.scan.quarantined or isinstance(self.folder, RemoteFolder):
            return self.scan.quarantined
        return left_out_before(self.folder)


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
    folder: Path | RemoteFolder, checks: MediaChecks, max_bad_share: float, max_audio_s: float | None
) -> FolderScan:
    """Read a folder, report omitted samples, and require that their share is within the limit."""
    progress = progress_reporter("data", "files checked")
    try:
        if isinstance(folder, RemoteFolder):
            scan = folder.read(progress, checks)
        else:
            scan = read_folder(folder, progress, checks=checks)
    except NoUsableSampleError as error:
        _log_left_out(error.quarantined)
        raise
    finally:
        checks.save()
    _report(scan, max_audio_s)
    _require_few_bad(folder, scan, max_bad_share)
    return scan


def plain_splits(
    scan: FolderScan, held_out_share: float, *, allow_shared_media: bool
) -> dict[str, tuple[Sample, ...]]:
    """Split the samples of a folder, and remove their key `split`: a commit has a file for each split.

    Raises:
        SplitError: Every split has shared media.
    """
    splits = split_samples(scan.samples, held_out_share, scan.digests, allow_shared_media=allow_shared_media)
    return {
        str(side): tuple(sample.model_copy(update={"split": None}) for sample in samples)
        for side, samples in splits.items()
    }


def _compare(
    store: ObjectStore,
    commit: Commit,
    folder: Path | RemoteFolder,
    scan: FolderScan,
    splits: Mapping[str, tuple[Sample, ...]],
    *,
    named: bool,
) -> None:
    """Refuse an unrelated folder whose name was not given, and report samples that moved."""
    previous = Previous(commit=commit, content=commit.reader(store))
    if not named:
        samples = [*splits["train"], *splits["held_out"]]
        previous.require_related(folder, samples, scan.digests.values())
    _report_moved(previous, splits)


def _warn_of_message(commit: Commit, message: str) -> None:
    if message:
        _LOG.warning("the message is not stored: %s has no change since %s", commit.name, commit.id[:16])


def _report_unchanged(store: ObjectStore, commit: Commit, scan: FolderScan, message: str) -> None:
    _warn_of_message(commit, message)
    if not has_facts(store, commit):
        write_facts(store, commit, scan.facts, scan.pending)


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


def _report_moved(previous: Previous, splits: Mapping[str, tuple[Sample, ...]]) -> None:
    moved = previous.moved(splits)
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
    total = scan.bad_samples + len(scan.samples)
    raise DatasetError(
        f"{scan.bad_samples} of {count_of(total, 'sample')} of {folder} cannot be used "
        f"({scan.bad_share:.0%}), more than data.max_bad_share={max_bad_share:g} allows; correct them, "
        "or raise the limit with --max-bad-share in `data commit` or --set data.max_bad_share=SHARE in "
        "`dryrun` and `open-run`; "
        f"the first is {first.file}: {first.reason}"
    )
