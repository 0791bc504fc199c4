"""Ranges of files and samples: boundaries, digests, and what a change changes."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_av.datasets.manifest import Manifest, canonical_json, parse_manifest, sha256_hex
from llava_av.datasets.ranges import (
    FileRow,
    SampleLine,
    cut_files,
    cut_samples,
    parse_files,
    parse_samples,
    sample_line,
    samples_in_memory,
)
from llava_av.datasets.reading import content_in_memory
from llava_av.datasets.schema import Sample, Turn


def row(number: int, content: int = 0) -> FileRow:
    return FileRow(f"clips/{number:06}.mp4", hashlib.sha256(bytes([content])).hexdigest(), 10 + content)


def line(number: int) -> SampleLine:
    return SampleLine(f"{number:06}", "all", b'{"id":"%06d"}' % number)


ROWS = [row(number) for number in range(0, 40_000, 2)]
RANGES = {one.sha256 for one, _ in cut_files(ROWS)}


def digests(rows: list[FileRow]) -> set[str]:
    return {one.sha256 for one, _ in cut_files(rows)}


def test_ranges_have_all_rows_in_order_and_are_named_by_their_content() -> None:
    found = list(cut_files(ROWS))
    assert [each for one, content in found for each in parse_files(one, content)] == ROWS
    assert [one.sha256 for one, _ in found] == [sha256_hex(content) for _, content in found]
    assert sum(one.bytes for one, _ in found) == sum(each.bytes for each in ROWS)
    assert 5 <= len(found) <= 20
    lines = [line(number) for number in range(5000)]
    ranges = list(cut_samples(lines))
    assert [each for one, content in ranges for each in parse_samples(one, content)] == lines
    assert sum(one.kinds["all"] for one, _ in ranges) == 5000


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 39_998))
def test_a_change_changes_its_range(at: int) -> None:
    own, before = row(at, content=1), RANGES
    changed = digests(sorted({**{each.path: each for each in ROWS}, own.path: own}.values()))
    # A new row may also divide a range.
    assert len(before - changed) == 1
    assert len(changed - before) <= 2
    removed = digests([each for each in ROWS if each.path != row(at - at % 2).path])
    assert len(before - removed) <= 2
    assert len(removed - before) <= 1


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([FileRow("../a", "0" * 64, 1)], "does not stay inside"),
        ([FileRow("a/./b", "0" * 64, 1)], "plain relative path"),
        ([FileRow(".checkout.json", "0" * 64, 1)], "reserved"),
        ([FileRow("a", "../../refs", 1)], "hexadecimal"),
        ([FileRow("b", "0" * 64, 1), FileRow("a", "0" * 64, 1)], "sorted"),
    ],
)
def test_forged_rows_are_refused(rows: list[FileRow], reason: str) -> None:
    [(one, content)] = cut_files(rows)
    with pytest.raises(ValueError, match=reason):
        parse_files(one, content)


def test_hidden_files_are_allowed() -> None:
    [(one, content)] = cut_files([FileRow(".hidden/a", "0" * 64, 1), FileRow("a..b/c", "0" * 64, 1)])
    assert len(parse_files(one, content)) == 2
    with pytest.raises(ValueError, match="3 sorted rows"):
        parse_files(one.model_copy(update={"rows": 3}), content)


def test_only_ranges_that_differ_are_loaded() -> None:
    loaded: list[str] = []
    listing = samples_in_memory(list(map(line, range(20_000))))
    after = samples_in_memory([line(number) for number in range(20_000) if number != 2500])

    def load(one):
        loaded.append(one.first)
        return listing.load(one)

    watched = replace(listing, load=load)
    lost = {each.id for each in watched.except_for(after.digests)} - {
        each.id for each in after.except_for(watched.digests)
    }
    assert lost == {"002500"}
    assert len(loaded) <= 2 < len(listing.ranges) - 5


def test_the_manifest_of_known_content_never_changes() -> None:
    """The ID of a commit must not depend on the version of a library."""
    turns = (Turn(speaker="human", value="Wer?"), Turn(speaker="gpt", value="Ä"))
    picture = Sample(id="b", conversations=turns, image=("ä.png",))
    splits = {"train": list(map(sample_line, (picture, Sample(id="a", conversations=turns))))}
    content = content_in_memory(splits, [FileRow("ä.png", "ab" * 32, 3)], ())
    stored = canonical_json(content.manifest())
    assert sha256_hex(stored) == "652cef1837cc4c314105757e7c34042577ecd5254a17c4052ff596dc73ff92a8"
    assert parse_manifest(stored) == content.manifest()
    assert isinstance(parse_manifest(stored), Manifest)
    with pytest.raises(ValueError, match="version"):
        parse_manifest(stored.replace(b'"version":2', b'"version":3'))
