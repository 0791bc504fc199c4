"""State digest: independent of containers and memory layout, dependent on every element."""

import hashlib
import random
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llava_av.checkpoints import state_digest

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
KEYS = st.text(max_size=4) | st.integers(0, 9)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.complex64]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4),
)


def reordered(value: Any, shuffle: random.Random) -> Any:
    """Return the tree with every mapping in another order, and tuples for lists."""
    if isinstance(value, dict):
        items = [(key, reordered(item, shuffle)) for key, item in value.items()]
        shuffle.shuffle(items)
        return OrderedDict(items)
    return tuple(reordered(item, shuffle) for item in value) if isinstance(value, list) else value


@given(tree=TREES, shuffle=st.randoms(use_true_random=False))
def test_order_and_kind_of_containers_do_not_count(tree: Any, shuffle: random.Random) -> None:
    assert state_digest({"tree": tree}) == state_digest({"tree": reordered(tree, shuffle)})


def plain(value: Any) -> Any:
    """Return the tree as text, equal if and only if types and contents are (floats by bits, except NaN)."""
    if isinstance(value, dict):
        return sorted((repr(key), plain(item)) for key, item in value.items())
    return ["list", *map(plain, value)] if isinstance(value, list) else repr(value)


@given(one=TREES, other=TREES)
def test_different_trees_have_different_digests(one: Any, other: Any) -> None:
    same = repr(plain({"t": one})) == repr(plain({"t": other}))
    assert same == (state_digest({"t": one}) == state_digest({"t": other}))


@given(array=ARRAYS, data=st.data())
def test_every_element_counts(array: np.ndarray, data: st.DataObject) -> None:
    before = state_digest({"a": array})
    changed = array.copy()
    index = data.draw(st.integers(0, array.size - 1))
    raw = changed.reshape(-1).view(np.uint8)
    raw[index * array.itemsize] ^= 1
    assert state_digest({"a": changed}) != before


@given(array=ARRAYS)
def test_dtype_and_shape_count(array: np.ndarray) -> None:
    before = state_digest({"a": array})
    assert state_digest({"a": array[None]}) != before
    assert state_digest({"a": array.reshape(-1).view(np.uint8)}) != before or array.dtype == np.uint8
    assert state_digest({"a": np.zeros(0, np.float32)}) != state_digest({"a": np.zeros(0, np.float64)})


@given(array=ARRAYS)
def test_layout_byte_order_and_library_do_not_count(array: np.ndarray) -> None:
    expected = state_digest({"a": array})
    assert state_digest({"a": np.asfortranarray(array).reshape(array.shape)}) == expected
    assert state_digest({"a": array.astype(array.dtype.newbyteorder(">"))}) == expected
    assert state_digest({"a": torch.from_numpy(array.copy())}) == expected
    padded = np.repeat(array[..., None], 2, axis=-1)[..., 0]
    assert state_digest({"a": padded}) == expected


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.int32, torch.bool]
)
def test_views_of_shared_storage_equal_their_copies(dtype: torch.dtype) -> None:
    base = torch.arange(24).reshape(4, 6).to(dtype)
    for view in (base[1], base.t(), base[::2, 1:3], base[0, 0]):
        copy = view.clone(memory_format=torch.contiguous_format)
        assert state_digest({"v": view}) == state_digest({"v": copy})
        assert state_digest({"v": view}) == state_digest({"v": torch.nn.Parameter(copy, requires_grad=False)})


def test_bits_of_floats_count() -> None:
    assert state_digest({"x": 0.0}) != state_digest({"x": -0.0})
    assert state_digest({"x": 1}) != state_digest({"x": 1.0})
    assert state_digest({"x": True}) != state_digest({"x": 1})
    assert state_digest({"x": torch.tensor([0.0])}) != state_digest({"x": torch.tensor([-0.0])})


def test_neighbours_do_not_run_together() -> None:
    assert state_digest({"x": ["ab", "c"]}) != state_digest({"x": ["a", "bc"]})
    assert state_digest({"x": [[1], 2]}) != state_digest({"x": [[1, 2]]})
    assert state_digest({"a": 1, "b": 2}) != state_digest({"a": {"b": 2}})
    assert state_digest({"1": 0}) != state_digest({1: 0})


def test_a_whole_training_state_has_a_digest() -> None:
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.ones(2, 3)}
    state: dict[str, Any] = {
        "model": torch.nn.Linear(3, 2).state_dict(),
        "optimizer": {
            "state": {0: moments},
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.98), "fused": None}],
        },
        "rng": [random.getstate(), np.random.get_state(), torch.get_rng_state()],
        "position": {"epoch": 1, "sample": 7},
    }
    before = state_digest(state)
    assert state_digest(state) == before
    moments["exp_avg"][1, 2] += 1e-6
    assert state_digest(state) != before


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), r"state\['optimizer'\]\[1\]: .*builtins.object"),
        ({1, 2}, r"\[1\]: .*set"),
        (np.array(["a", None]), r"\[1\]: .*dtype object"),
        ({(1, 2): 0}, r"\[1\]: .*key of type builtins.tuple"),
        (torch.eye(2).to_sparse(), r"\[1\]: .*sparse"),
    ],
)
def test_an_unknown_type_is_refused_by_its_path(value: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        state_digest({"optimizer": [0, value]})


def test_the_encoding_is_as_documented() -> None:
    """Manifests keep digests for years, so the bytes below are spelled out."""

    def tagged(tag: bytes, payload: bytes) -> bytes:
        return tag + len(payload).to_bytes(8, "little") + payload

    expected = (
        tagged(b"M", b"2")
        + tagged(b"K", b"Sa")
        + tagged(b"L", b"6")
        + tagged(b"I", b"1")
        + tagged(b"F", b"\0\0\0\0\0\0\x04\x40")
        + tagged(b"S", "ä".encode())
        + tagged(b"N", b"")
        + tagged(b"B", b"1")
        + tagged(b"Y", b"\0")
        + tagged(b"K", b"Sb")
        + tagged(b"A", b"float32[1, 2]")
        + b"\0\0\x80\x3f\0\0\0\x40"
    )
    state = {"b": np.array([[1, 2]], dtype=np.float32), "a": [1, 2.5, "ä", None, True, b"\0"]}
    assert state_digest(state) == hashlib.sha256(expected).hexdigest()
