"""Mutations of files: flipped bits, cuts, swapped, repeated and erased ranges, and extreme numbers."""

from collections.abc import Callable

from hypothesis import strategies as st

__all__ = ["Mutation", "damaged", "mutations"]

Mutation = tuple[str, float, float, int, bytes]
_EXTREMES = tuple(
    value.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for order in ("little", "big")
    for value in (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
)


def mutations() -> st.SearchStrategy[list[Mutation]]:
    """Generate one to four mutations at relative positions, half of them near the start of the file."""
    place = st.floats(0, 1, exclude_max=True)
    near_start = place.map(lambda share: share**4)
    one = st.tuples(
        st.sampled_from(sorted(_CHANGES)),
        st.one_of(place, near_start),
        place,
        st.integers(1, 64),
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(_EXTREMES)),
    )
    return st.lists(one, min_size=1, max_size=4)


def damaged(content: bytes, changes: list[Mutation]) -> bytes:
    """Apply mutations to a content and return the result."""
    for kind, share, other, length, new in changes:
        if content:
            content = _CHANGES[kind](
                content, int(share * len(content)), int(other * len(content)), length, new
            )
    return content


def _flip(content: bytes, place: int, other: int, length: int, new: bytes) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << length % 8)]) + content[place + 1 :]


def _write(content: bytes, place: int, other: int, length: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


def _insert(content: bytes, place: int, other: int, length: int, new: bytes) -> bytes:
    return content[:place] + new + content[place:]


def _delete(content: bytes, place: int, other: int, length: int, new: bytes) -> bytes:
    return content[:place] + content[place + length :]


def _erase(content: bytes, place: int, other: int, length: int, new: bytes) -> bytes:
    return content[:place] + bytes(length) + content[place + length :]


def _repeat(content: bytes, place: int, other: int, length: int, new: bytes) -> bytes:
    return content[: place + length] + content[place:]


def _cut(content: bytes, place: int, other: int, length: int, new: bytes) -> bytes:
    return content[:other]


def _swap(content: bytes, place: int, other: int, length: int, new: bytes) -> bytes:
    first, second = sorted((place, other))
    length = min(length, second - first)
    left, right = content[first : first + length], content[second : second + length]
    middle = content[first + length : second]
    return content[:first] + right + middle + left + content[second + length :]


_CHANGES: dict[str, Callable[[bytes, int, int, int, bytes], bytes]] = {
    "cut": _cut,
    "delete": _delete,
    "erase": _erase,
    "flip": _flip,
    "insert": _insert,
    "repeat": _repeat,
    "swap": _swap,
    "write": _write,
}
