"""Table of a folder's rows: equal to rows in memory, without keeping their text in memory."""

import json
import random
import tracemalloc
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.folder_files import FolderFiles
from llava_av.datasets.media_checks import CheckDepth, MediaChecks
from llava_av.datasets.ranges import SampleLine, samples_content, samples_in_memory
from llava_av.datasets.sources.checked_files import CheckedFiles
from llava_av.datasets.sources.folder import FolderScan, read_folder
from llava_av.datasets.sources.name_table import NameTable
from llava_av.datasets.sources.row_table import RowTable
from llava_av.datasets.sources.sample_rows import RowBlock, SampleRow
from llava_av.workflows.folder_content import ChosenShares, folder_content
from tests.dataset_folders import line, settled, write_grey_image

SHARES = ChosenShares(held_out_share=0.2, max_bad_share=1.0)
LONG_BYTES = 10_000


def row(name: str, split: str | None = None) -> SampleRow:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": f"ä {name}"}]
    text = json.dumps({"conversations": turns, "id": name}, ensure_ascii=False, separators=(",", ":"))
    return SampleRow(name, f"kind {len(name)}", text.encode(), split, (("a.png", "image"),), True, True)


names = st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), min_size=1, max_size=60)


@given(names=names, data=st.data())
def test_a_table_has_the_listing_of_its_rows(names: list[str], data: st.DataObject) -> None:
    rows, table = list(map(row, names)), RowTable()
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=len(rows), max_size=len(rows)))
    first = 0
    for size in sizes:
        part = rows[first : first + size]
        table.add(range(first + 1, first + 1 + len(part)), RowBlock.of(part))
        first += size
    unique, repeated = table.unique()
    known: dict[str, int] = {}
    firsts = [known.setdefault(name, place) for place, name in enumerate(names)]
    assert repeated == {place: first for place, first in enumerate(firsts) if place != first}
    assert list(unique) == [rows[place] for place in known.values()]
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(unique), max_size=len(unique))), bool)
    found = unique.where(chosen).listing()
    kept = [one for one, is_kept in zip(unique, chosen, strict=True) if is_kept]
    lines = sorted(SampleLine(one.id, one.kind, one.text) for one in kept)
    assert found.ranges == samples_in_memory(lines).ranges
    assert list(found) == lines
    assert found.content is not None
    assert b"".join(map(found.content, found.ranges)) == samples_content(lines)


def scanned(root: Path, cache_file: Path | None, depth: CheckDepth = "full") -> FolderScan:
    with FileCache(cache_file) as cache:
        return read_folder(root, checks=MediaChecks(cache, depth=depth), files=FolderFiles(settled(root)))


def edit(root: Path, choose: random.Random) -> None:
    """Change samples and files of a folder at random; some become unusable."""
    file = root / "conversations.jsonl"
    lines = file.read_text().splitlines(keepends=True)[1:] if file.exists() else []
    for _ in range(choose.choice((0, 1, 40))):
        names = [f"{choose.choice('ab')}/{choose.randrange(40)}.png" for _ in range(choose.randrange(3))]
        sample = {"id": f"s{choose.randrange(400)}", "image": names, "kind": choose.choice(("all", "one"))}
        side = choose.choice((None, None, None, "train"))
        lines.insert(choose.randrange(len(lines) + 1), line(sample | ({"split": side} if side else {})))
    for _ in range(choose.choice((0, 0, 3))):
        if lines:
            del lines[choose.randrange(len(lines))]
    file.write_text("".join([line({"id": "text"}), *lines]))
    for _ in range(choose.choice((0, 2, 20))):
        path = root / choose.choice("ab") / f"{choose.randrange(40)}.png"
        path.parent.mkdir(exist_ok=True)
        if choose.random() < 0.1:
            path.write_bytes(b"no image")
        else:
            write_grey_image(path, choose.randrange(256))


def test_a_cached_scan_and_its_content_equal_those_of_a_new_one(tmp_path: Path) -> None:
    choose, root = random.Random(0), tmp_path / "folder"
    root.mkdir()
    for _ in range(12):
        edit(root, choose)
        found, new = scanned(root, tmp_path / "cache"), scanned(root, None)
        assert found == new
        if len(new.rows) > 1:
            made, expected = (
                folder_content(root, one, SHARES, allow_shared_media=True) for one in (found, new)
            )
            assert made.manifest() == expected.manifest()


def test_pending_files_are_remembered_when_they_are_decoded(tmp_path: Path) -> None:
    root = tmp_path / "folder"
    root.mkdir()
    write_grey_image(root / "a.png", 1)
    (root / "conversations.jsonl").write_text(line({"id": "1", "image": "a.png"}) + line({"id": "2"}))
    assert scanned(root, tmp_path / "cache", "headers").files.pending
    assert not scanned(root, tmp_path / "cache").files.pending
    names = NameTable()
    checked = CheckedFiles(names, np.array(names.add(["a.png", "b.png"])))

    with FileCache(tmp_path / "cache") as cache:
        FolderFiles(root).add_known(cache, checked)
    assert set(checked) == {"a.png"}


def test_the_text_of_samples_is_not_kept_in_memory(tmp_path: Path) -> None:
    count, answer = 4000, "a" * LONG_BYTES
    (tmp_path / "conversations.jsonl").write_text(
        "".join(line({"id": f"{number:05}"}, answer=answer) for number in range(count))
    )
    tracemalloc.start()
    try:
        scan = read_folder(tmp_path)
        content = folder_content(tmp_path, scan, SHARES, allow_shared_media=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ranges = [one for split in content.splits for one in content.samples(split).ranges]
    assert sum(one.rows for one in ranges) == count
    assert sum(one.size for one in ranges) > count * len(answer)
    assert peak < 0.7 * count * len(answer)
