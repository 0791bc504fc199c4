"""Columns by digest: equal to dictionaries of the same content."""

import hashlib
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llava_av.datasets.digest_index import DigestIndex
from llava_av.datasets.placements import Place, Places
from llava_av.datasets.sources import name_table
from llava_av.datasets.sources.checked_files import CheckedFiles, info_text
from llava_av.datasets.sources.file_checks import CheckedFile
from llava_av.datasets.sources.name_table import NameTable
from llava_av.datasets.sources.spilled_texts import SpilledTexts, sorted_numbers
from llava_av.media.info import MediaInfo


def digest(number: int) -> str:
    """Return a digest; one of 0 to 9 begins like nine others."""
    own = hashlib.sha256(str(number).encode()).hexdigest()
    return f"{'ab' * 8}{own[16:]}" if number < 10 else own


def image(side: int) -> MediaInfo:
    return MediaInfo(
        kind="image",
        duration_s=0.0,
        frames=1,
        fps=None,
        width=side,
        height=side,
        has_audio=False,
        sample_rate_hz=None,
    )


numbers = st.lists(st.integers(0, 20), max_size=40)


@given(parts=st.lists(numbers, max_size=4))
def test_an_index_finds_all_places_of_a_digest(parts: list[list[int]]) -> None:
    index, added = DigestIndex(), list[str]()
    for part in parts:
        index.add(map(digest, part))
        added += map(digest, part)
        for number in range(21):
            wanted = digest(number)
            assert index.places(wanted) == [place for place, one in enumerate(added) if one == wanted]
    assert list(index) == added
    assert list(index.firsts()) == [added.index(one) == place for place, one in enumerate(added)]


def test_an_index_refuses_what_is_no_digest() -> None:
    index = DigestIndex()
    for bad in ("ab", "x" * 64):
        with pytest.raises(ValueError, match="hexadecimal"):
            index.add([digest(1), bad])
    assert len(index) == 0


@given(parts=st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3))), max_size=4))
def test_places_equal_a_dictionary(parts: list[list[tuple[int, int]]]) -> None:
    places, expected = Places(), dict[str, Place]()
    for offset, part in enumerate(parts):
        added = {digest(number): Place(digest(100 + pack), offset) for number, pack in part}
        places.add(added)
        expected |= added
    assert places == expected
    assert len(places) == len(expected)


@given(files=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 3), st.booleans()), max_size=30))
def test_checked_files_equal_a_dictionary(files: list[tuple[int, int, bool]]) -> None:
    expected = {
        f"{place}.png": CheckedFile(info=image(side), sha256=digest(number), bytes=place, decoded=decoded)
        for place, (number, side, decoded) in enumerate(files)
    }
    names = NameTable()
    checked = CheckedFiles(names, np.array(names.add([*expected, "wanted.png", "other.png"]))[:-1])
    known = {name: file for name, file in expected.items() if file.decoded} | {
        name: CheckedFile(info=image(1), sha256=digest(0), bytes=1, decoded=True)
        for name in ("other.png", "unnamed.png")
    }
    infos, digests, sizes, _ = zip(*known.values(), strict=True)
    checked.add_decoded(list(known), list(map(info_text, infos)), digests, sizes)
    for number, (_, file) in enumerate(expected.items()):
        if not file.decoded:
            checked.put(number, file)
    assert checked == expected
    assert checked.find(["other.png", "unnamed.png", "wanted.png"]) == [None] * 3
    pending = {file.sha256 for file in expected.values() if not file.decoded}
    assert checked.pending == pending
    assert bool(checked.pending) == bool(pending)
    assert {number for number in range(21) if digest(number) in checked.pending} == {
        number for number, _, decoded in files if not decoded
    }
    ordered = sorted(expected.values(), key=lambda file: file.decoded, reverse=True)
    assert checked.facts == {file.sha256: file.info for file in ordered}
    numbers = np.arange(len(expected))
    contents, content_digests = checked.contents(numbers)
    found = content_digests(contents)
    assert found == [file.sha256 for file in expected.values()]
    assert len(set(contents.tolist())) == len({file.sha256 for file in expected.values()})
    assert all(
        (one <= other) == (own <= others)
        for one, own in zip(contents, found, strict=True)
        for other, others in zip(contents, found, strict=True)
    )


@given(parts=st.lists(st.lists(st.integers(0, 40), max_size=40), max_size=4), forgets=st.booleans())
@example(parts=[[1], [1]], forgets=True)
def test_names_are_found_by_number_and_by_text(parts: list[list[int]], forgets: bool) -> None:
    table, added, numbers = NameTable(), list[str](), list[int]()
    with pytest.MonkeyPatch.context() as patch:
        # A name that the table has forgotten gets a new number.
        patch.setattr(name_table, "_RECENT", 0 if forgets else 50)
        for part in parts:
            own = [f"{number}/é.png" for number in part]
            numbers += table.add(own)
            added += own
    assert table.texts(np.array(numbers, np.int64)) == added
    assert list(table.each(np.array(numbers, np.int64))) == added
    firsts = table.firsts()[numbers].tolist() if numbers else []
    assert firsts == [numbers[added.index(name)] for name in added]
    assert table.numbers([*added, "absent"]).tolist() == [*firsts, -1]


def test_many_texts_are_read_and_sorted() -> None:
    choose, texts = random.Random(0), SpilledTexts()
    added = [f"{choose.randrange(10**5):0200}" for _ in range(70_000)]
    for start in range(0, len(added), 1000):
        texts.append(added[start : start + 1000])
    numbers = np.array(choose.sample(range(len(added)), 100))
    assert texts.read(numbers) == [added[number].encode() for number in numbers]
    order, is_new = sorted_numbers(len(texts), texts.read)
    expected = sorted(range(len(added)), key=added.__getitem__)
    assert order.tolist() == expected
    assert is_new.tolist() == [True, *(added[one] != added[other] for one, other in pairwise(expected))]


def test_many_digests_are_found() -> None:
    choose, index = random.Random(0), DigestIndex()
    # More than an index keeps in memory; some are equal, and some only begin alike.
    added = [choose.randbytes(32).hex() for _ in range(290_000)]
    added += [f"{one[:16]}{choose.randbytes(24).hex()}" for one in added[:1000]] + added[:9000]
    choose.shuffle(added)
    index.add(added)
    places = choose.sample(range(len(added)), 100)
    assert index.at(np.array(places)) == [added[place] for place in places]
    assert all(place in index.places(added[place]) for place in places)
    ranks, firsts = index.ranks()
    distinct = sorted(set(added))
    assert [added[place] for place in firsts] == distinct
    assert all(distinct[ranks[place]] == added[place] for place in places)
