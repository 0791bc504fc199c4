"""Cache of digests and checks: known files are not read again, files that it cannot trust are."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_av.datasets.file_cache import FileCache, Stamp
from llava_av.datasets.folder_files import FolderFiles
from llava_av.datasets.media_checks import CheckedMedia, MediaChecks
from llava_av.media import check
from llava_av.media.container import MediaError
from llava_av.storage import file_entity_tag, file_sha256
from tests.dataset_folders import settled
from tests.media_samples import click, cut, write_grey_clip

MIB = 1 << 20


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return settled(write_grey_clip(tmp_path / "clip.mp4", click(1.0)))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list of the files that are decoded from now on."""
    paths: list[Path] = []
    decode = check.check_media
    monkeypatch.setattr(check, "check_media", lambda *file: paths.append(file[0]) or decode(*file))
    return paths


def checked(cache: FileCache, path: Path) -> CheckedMedia:
    return MediaChecks(cache).check(path, cache.identify(path))


def test_content_is_decoded_once_whatever_its_name(clip: Path, tmp_path: Path, decoded: list[Path]) -> None:
    with FileCache(tmp_path / "cache.sqlite") as cache:
        first = checked(cache, clip)
    copy = tmp_path / "other.mp4"
    shutil.copy(clip, copy)
    with FileCache(tmp_path / "cache.sqlite") as cache:
        assert checked(cache, clip) == checked(cache, copy) == first
    assert decoded == [clip]
    assert first.info == check.check_media(clip)


def test_a_damaged_clip_is_refused_each_time(clip: Path, tmp_path: Path) -> None:
    short = cut(clip, tmp_path / "short.mp4")
    for _ in range(2):
        with FileCache(tmp_path / "cache.sqlite") as cache, pytest.raises(MediaError, match=r"short\.mp4"):
            checked(cache, short)


def test_a_known_file_is_not_read(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileCache(tmp_path / "cache.sqlite") as cache:
        known = cache.identify(clip)
        tag = cache.entity_tag(clip, known.stamp)
    assert (known.sha256, tag) == (file_sha256(clip), file_entity_tag(clip))

    def unread(path: Path) -> str:
        raise AssertionError(f"{path} is read")

    for name in ("file_sha256", "file_entity_tag"):
        monkeypatch.setattr(f"llava_av.datasets.file_cache.{name}", unread)
    with FileCache(tmp_path / "cache.sqlite") as cache:
        assert cache.identify(clip) == known
        assert cache.entity_tag(clip, known.stamp) == tag


def test_a_change_that_keeps_size_and_time_is_noticed(clip: Path, tmp_path: Path) -> None:
    with FileCache(tmp_path / "cache.sqlite") as cache:
        before = cache.identify(clip)
        status = clip.stat()
        content = bytearray(clip.read_bytes())
        content[-1] ^= 1
        clip.write_bytes(content)
        os.utime(clip, ns=(status.st_atime_ns, status.st_mtime_ns))
        after = cache.identify(clip)
    assert after.stamp.modified_ns == before.stamp.modified_ns
    assert after.sha256 == file_sha256(clip) != before.sha256


@pytest.mark.parametrize(
    ("modified_ns", "margin_ns"), [(1_500_000_000, 100_000_000), (1_000_000_000, 2_000_000_000)]
)
def test_a_file_that_just_changed_is_not_trusted(modified_ns: int, margin_ns: int) -> None:
    stamp = Stamp(size=1, modified_ns=modified_ns, changed_ns=modified_ns, inode=1, device=1)
    assert not stamp.is_settled(modified_ns + margin_ns)
    assert stamp.is_settled(modified_ns + margin_ns + 1)


def _garbage(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)


def _torn(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _altered(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("UPDATE facts SET value = replace(value, 'a', 'b')")


@pytest.mark.parametrize("damage", [_garbage, _torn, _altered])
def test_a_damaged_cache_costs_only_time(clip: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    file = tmp_path / "cache.sqlite"
    for _ in range(2):
        with FileCache(file) as cache:
            known = cache.identify(clip)
            info = checked(cache, clip)
    damage(file)
    with FileCache(file) as cache:
        assert cache.identify(clip) == known
        assert checked(cache, clip) == info
        assert cache.entity_tag(clip, known.stamp) == file_entity_tag(clip)


def test_a_folder_that_cannot_be_made_costs_only_time(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with FileCache(tmp_path / "file" / "cache.sqlite") as cache:
        assert cache.identify(clip).sha256 == file_sha256(clip)


def test_several_caches_share_a_file(clip: Path, tmp_path: Path) -> None:
    file = tmp_path / "cache.sqlite"
    with FileCache(file) as one, FileCache(file) as other:
        one.remember_verified("a", "1")
        other.remember_verified("b", "2")
    with FileCache(file) as both:
        assert both.is_verified("a", "1")
        assert both.is_verified("b", "2")
        assert not both.is_verified("b", "3")


@pytest.mark.parametrize("size", [0, 5, 8 * MIB, 8 * MIB + 1, 20 * MIB])
def test_the_entity_tag_has_as_many_parts_as_the_upload(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    _, _, parts = file_entity_tag(tmp_path / "file").partition("-")
    assert parts == ("" if size <= 8 * MIB else str(-(-size // (8 * MIB))))


def test_the_stamp_of_a_folder_changes_with_any_file(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (root / name).write_bytes(b"1234")
    first = settled_stamp(root)
    assert FolderFiles(root).stamp == first
    found = {first}
    for change in (
        lambda: (root / "a").write_bytes(b"1235"),
        lambda: os.utime(root / "a", (1, 1)),
        lambda: (root / "deep/b").rename(root / "b"),
        lambda: (root / "b").unlink(),
    ):
        change()
        found.add(settled_stamp(root))
    assert len(found) == 5
    later = time.time() + 3600
    os.utime(root / "a", (later, later))
    assert FolderFiles(root).stamp is None, "another change may leave the stamp as it is"
    os.utime(root / "a", (1, 1))
    (root / "link").symlink_to(root / "a")
    assert FolderFiles(root).stamp is None


def settled_stamp(root: Path) -> str:
    """Return the stamp of a folder when its last change is some time ago."""
    for path in root.rglob("*"):
        settled(path)
    stamp = FolderFiles(root).stamp
    assert stamp is not None
    return stamp
