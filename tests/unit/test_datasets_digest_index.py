"""Columns by digest: equal to dictionaries of the same content."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.datasets.digest_index import DigestIndex
from llava_av.datasets.placements import Place, Places
from llava_av.datasets.sources.checked_files import CheckedFiles
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
def test_checked_files_have_facts_and_pending_files_by_digest(files: list[tuple[int, int, bool]]) -> None:
    checked = CheckedFiles()
    for place, (number, side, decoded) in enumerate(files):
        checked.add([str(place)], [image(side)], [digest(number)], [place], decoded=decoded)
    assert checked.facts == {digest(number): image(side) for number, side, _ in files}
    pending = {digest(number) for number, _, decoded in files if not decoded}
    assert checked.pending == pending
    assert bool(checked.pending) == bool(pending)
    assert {number for number in range(21) if digest(number) in checked.pending} == {
        number for number, _, decoded in files if not decoded
    }
    chosen = [str(place) for place in range(0, len(files) + 3, 2)]
    assert checked.of(chosen) == {name: checked[name] for name in chosen if name in checked}
