"""Checked rows and files that are kept in the file cache: only what changed is checked again."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llava_av.datasets import folder_files
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.folder_files import FolderFiles
from llava_av.datasets.media_checks import CheckDepth, MediaChecks
from llava_av.datasets.sources import folder as folder_module
from llava_av.datasets.sources.file_checks import FileCheck, folder_check
from llava_av.datasets.sources.folder import FolderScan, read_folder
from llava_av.datasets.sources.rows import Rows
from llava_av.media import check
from tests.dataset_folders import line, settled, write_conversations, write_dataset, write_grey_image

SAMPLES = 3000


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    """Return the lines of many samples without media, with all that a row can state."""
    choices = {"choices": ["It", "Them"], "kind": "räume_1", "split": "held_out"}
    return [line({"id": f"s{n}", **(choices if n % 2 else {})}) for n in range(SAMPLES)]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the numbers of rows that are parsed from now on."""
    numbers: list[int] = []
    parse = Rows.parse

    def parsing(self, number, row):
        numbers.append(number)
        return parse(self, number, row)

    monkeypatch.setattr(Rows, "parse", parsing)
    return numbers


def scanned(
    root: Path, cache_file: Path | None, name: str = "conversations.jsonl", text: str | None = None
) -> FolderScan:
    """Write the conversations of a folder if a text is given, and read the folder."""
    root.mkdir(exist_ok=True)
    if text is not None:
        (root / name).write_text(text)
    with FileCache(cache_file) as cache:
        return read_folder(root, checks=MediaChecks(cache), files=FolderFiles(root))


def test_only_changed_rows_are_parsed_again(lines: list[str], parsed: list[int], tmp_path: Path) -> None:
    root, cache = tmp_path / "clips", tmp_path / "cache"
    first = scanned(root, cache, text="".join(lines))
    assert len(parsed) == SAMPLES
    parsed.clear()
    assert scanned(root, cache) == first
    assert not parsed
    lines[1500] = line({"id": "s1500"}, answer="Another.")
    del lines[100]
    found = scanned(root, cache, text="".join(lines))
    assert 1500 in parsed
    assert len(parsed) < SAMPLES / 2
    assert found == scanned(root, None)
    assert found.samples[1].split == "held_out"
    assert found.samples[1].choices == ("It", "Them")


def test_repeated_rows_are_known_each_time(lines: list[str], parsed: list[int], tmp_path: Path) -> None:
    root, cache = tmp_path / "clips", tmp_path / "cache"
    first = scanned(root, cache, text="".join(lines * 2))
    assert first == scanned(root, None)
    assert len(first.quarantined) == SAMPLES
    parsed.clear()
    assert scanned(root, cache) == first
    assert not parsed


def test_entries_of_an_array_are_known_too(lines: list[str], parsed: list[int], tmp_path: Path) -> None:
    root, cache = tmp_path / "clips", tmp_path / "cache"
    first = scanned(root, cache, "conversations.json", f"[{','.join(lines)}]")
    parsed.clear()
    assert scanned(root, cache) == first
    assert not parsed


def test_bad_rows_are_reported_each_time(lines: list[str], tmp_path: Path) -> None:
    root, cache = tmp_path / "clips", tmp_path / "cache"
    lines[7] = '{"id": "s7"}\n'
    lines[9] = lines[8]
    for _ in range(2):
        found = scanned(root, cache, text="".join(lines))
        assert [bad.file for bad in found.quarantined] == ["conversations.jsonl:8", "conversations.jsonl:10"]
        assert len(found.rows) == SAMPLES - 2


def _altered(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("UPDATE facts SET value = replace(value, 's', 't')")


def _emptied(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("UPDATE facts SET value = '[]'")


def _lost(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)


@pytest.mark.parametrize("damage", [_altered, _emptied, _lost])
def test_a_damaged_cache_is_not_used(
    damage: Callable[[Path], None], lines: list[str], parsed: list[int], tmp_path: Path
) -> None:
    root, cache = tmp_path / "clips", tmp_path / "cache"
    first = scanned(root, cache, text="".join(lines))
    damage(cache)
    parsed.clear()
    assert scanned(root, cache) == first
    assert len(parsed) == SAMPLES
    parsed.clear()
    assert scanned(root, cache) == first
    assert not parsed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return settled(write_dataset(tmp_path / "clips"))


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the names of files that are looked up one by one from now on."""
    names: list[str] = []

    def recording(root: Path, checks: MediaChecks) -> FileCheck:
        own = folder_check(root, checks)
        return replace(own, result=lambda name: names.append(Path(name).name) or own.result(name))

    monkeypatch.setattr(folder_module, "folder_check", recording)
    return names


def read(folder: Path, cache_file: Path, depth: CheckDepth = "full") -> FolderScan:
    with FileCache(cache_file) as cache:
        return read_folder(folder, checks=MediaChecks(cache, depth=depth), files=FolderFiles(folder))


def test_unchanged_files_are_not_looked_up(folder: Path, looked_up: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = read(folder, cache)
    assert sorted(looked_up) == ["bell.wav", "day.png", "night.png"]
    looked_up.clear()
    assert read(folder, cache) == first
    assert not looked_up
    assert first.files["media/bell.wav"].bytes == (folder / "media/bell.wav").stat().st_size


def test_a_changed_file_is_found(folder: Path, looked_up: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = read(folder, cache)
    day = folder / "day.png"
    status = day.stat()
    write_grey_image(day, 201)
    os.utime(day, ns=(status.st_atime_ns, status.st_mtime_ns))
    looked_up.clear()
    changed = read(settled(folder), cache)
    assert "bell.wav" not in looked_up
    assert changed.files["day.png"].sha256 != first.files["day.png"].sha256
    assert changed.files["night.png"] == first.files["night.png"]


def test_a_file_that_changed_a_moment_ago_is_looked_up_again(
    folder: Path, looked_up: list[str], tmp_path: Path
) -> None:
    later = (2**32, 2**32)
    os.utime(folder / "day.png", later)
    for _ in range(2):
        looked_up.clear()
        read(folder, tmp_path / "cache")
        assert "day.png" in looked_up
    assert "night.png" not in looked_up


def test_a_file_that_is_not_decoded_is_decoded_at_full_depth(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    assert len(read(folder, cache, "headers").files.pending) == 3
    decoded: list[str] = []
    decode = check.check_media
    monkeypatch.setattr(check, "check_media", lambda *file: decoded.append(file[0]) or decode(*file))
    assert not read(folder, cache).files.pending
    assert len(decoded) == 3
    assert not read(folder, cache, "headers").files.pending


def test_a_folder_in_that_of_another_dataset_has_its_own_results(folder: Path, tmp_path: Path) -> None:
    inner, shades = folder / "media", {"day.png": 200, "media/day.png": 20, "media/media/day.png": 90}
    for name, shade in shades.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_grey_image(folder / name, shade)
    outer_names, inner_names = ["media/day.png", "media/media/day.png"], ["day.png", "media/day.png"]
    for root, names in ((folder, outer_names), (inner, inner_names)):
        write_conversations(root, [{"id": name, "image": name} for name in names])
    cache = tmp_path / "cache"
    outer = read(settled(folder), cache).files
    found = read(inner, cache).files
    assert [found[name].sha256 for name in inner_names] == [outer[name].sha256 for name in outer_names]


def test_many_blocks_are_looked_for_at_a_time(
    folder: Path, looked_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}/a.png" for number in range(9)]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir()
        write_grey_image(folder / name, number)
    write_conversations(settled(folder), [{"id": name, "image": name} for name in names])
    cache = tmp_path / "cache"
    first = read(folder, cache)
    monkeypatch.setattr(folder_files, "_READ_AT_ONCE", 4)
    looked_up.clear()
    assert read(folder, cache) == first
    assert not looked_up
    with contextlib.closing(sqlite3.connect(cache)) as database, database:
        database.execute(
            "DELETE FROM facts WHERE key = (SELECT max(key) FROM facts WHERE key LIKE 'files %')"
        )
    assert read(folder, cache) == first
    assert len(looked_up) <= 1
    # A text of another form spoils its batch, and is then replaced.
    with FileCache(cache) as opened:
        blocks = FolderFiles(folder)._blocks
        assert blocks is not None
        opened.remember_files(blocks[-1].digest, json.dumps([["8/a.png"], ["{}"], ["0" * 63], [1]]))
    for looks in (True, False):
        looked_up.clear()
        assert read(folder, cache) == first
        assert bool(looked_up) == looks


def test_links_are_followed_each_time(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write_grey_image(outside / "dusk.png", 90)
    (folder / "linked").symlink_to(outside)
    (folder / "alias.png").symlink_to(folder / "day.png")
    names = {"dusk": "linked/dusk.png", "alias": "alias.png"}
    write_conversations(folder, [{"id": key, "image": name} for key, name in names.items()])
    for _ in range(2):
        found = read(settled(folder), tmp_path / "cache")
        assert [bad.file for bad in found.quarantined] == ["linked/dusk.png"]
        assert found.files.keys() == {"alias.png"}


def test_files_beside_a_name_that_is_not_utf_8_are_known(
    folder: Path, looked_up: list[str], tmp_path: Path
) -> None:
    try:
        write_grey_image(folder / os.fsdecode(b"\xff.png"), 90)
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    first = read(settled(folder), tmp_path / "cache")
    looked_up.clear()
    assert read(folder, tmp_path / "cache") == first
    assert not looked_up
