"""Shard files and their index: any cut of a state into ranges is read back as any other."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, distributed

from llava_av.checkpoints.shard_files import ShardReader, describe_tensors, read_tensors, write_tensors
from llava_av.checkpoints.shard_index import ShardIndex, parse_index
from llava_av.training.collective import CpuGroup
from llava_av.training.engines import Fragment, FrozenFragment
from llava_av.training.random_state import random_state, seed_generators, set_random_state
from llava_av.training.sharded_state import frozen_checksums, needed_files, shard_files, updates_by_name

ELEMENTS = 40


@pytest.fixture(scope="module")
def group() -> Iterator[CpuGroup]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield CpuGroup()
    distributed.destroy_process_group()


def index_of(files: dict[str, dict[str, tuple[int, int]]]) -> ShardIndex:
    return ShardIndex(processes=1, updates={"w": 0.0}, frozen={}, files=files)


def test_a_file_is_safetensors_and_its_hash_is_known_without_it(tmp_path: Path) -> None:
    tensors = {
        "half": torch.tensor([1.5, -2.0]).bfloat16(),
        "matrix": torch.arange(6.0).reshape(2, 3).t(),
        "nothing": torch.empty(0, 3),
        "one": torch.tensor(7),
    }
    written = write_tensors(tmp_path / "state" / "a.safetensors", tensors)
    content = (tmp_path / "state" / "a.safetensors").read_bytes()
    assert (written.sha256, written.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert describe_tensors(dict(reversed(tensors.items()))) == written
    for found in (
        load_file(tmp_path / "state" / "a.safetensors"),
        read_tensors(tmp_path / "state/a.safetensors"),
    ):
        assert found.keys() == tensors.keys()
        assert all(found[name].equal(one) and found[name].dtype == one.dtype for name, one in tensors.items())


cuts = st.lists(st.integers(1, ELEMENTS - 1), max_size=6, unique=True).map(sorted)


def ranges(cut: list[int]) -> list[tuple[int, int]]:
    ends = [0, *cut, ELEMENTS]
    return [(first, end - first) for first, end in itertools.pairwise(ends)]


@settings(max_examples=30, deadline=None)
@given(written=cuts, read=cuts)
def test_any_ranges_are_read_as_any_others(
    tmp_path_factory: pytest.TempPathFactory, written: list[int], read: list[int]
) -> None:
    folder, whole = tmp_path_factory.mktemp("shards"), torch.randn(ELEMENTS)
    files = {f"state/{start}": {"w": (start, length)} for start, length in ranges(written)}
    for name, held in files.items():
        start, length = held["w"]
        write_tensors(folder / name, {"weight/w": whole[start : start + length]})
    with ShardReader(folder, index_of(files)) as reader:
        for start, length in ranges(read):
            found = torch.full((length,), torch.nan)
            reader.read_into(found, "weight", "w", start)
            assert found.equal(whole[start : start + length])


@pytest.mark.parametrize("held", [[(0, 5), (6, 4)], [(0, 6), (5, 5)], [(0, 9)], []])
def test_elements_that_are_missing_or_twice_there_are_refused(held: list[tuple[int, int]]) -> None:
    index = index_of({f"state/{number}": {"w": one} for number, one in enumerate(held)})
    with pytest.raises(ValueError, match=r"parameter w: files hold \d+ values for the 10 elements 0 to 9"):
        list(index.covering("w", 0, 10))


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', '{"files": {"../up": {}}}'])
def test_a_damaged_index_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"state/index\.json is damaged"):
        parse_index(text.encode())


def test_a_large_range_is_divided_among_files(group: CpuGroup, tmp_path: Path) -> None:
    weight = torch.arange(2**24 + 3, dtype=torch.float32)
    fragment = Fragment(name="w", start=5, weight=weight, moments={}, updates=torch.tensor(3.0))
    files = shard_files([fragment], {}, {})
    held = [one for one in files if one.ranges]
    assert [one.ranges["w"] for one in held] == [(5, 2**24), (5 + 2**24, 3)]
    for one in held:
        write_tensors(tmp_path / one.name, one.tensors)
    index = index_of({one.name: one.ranges for one in held})
    assert needed_files(index, [fragment]) >= {one.name for one in held}
    assert updates_by_name([fragment]) == {"w": 3.0}
    with ShardReader(tmp_path, index) as reader:
        found = torch.zeros(4)
        reader.read_into(found, "weight", "w", 2**24 + 3)
    assert found.equal(weight[-5:-1])


def test_a_checksum_depends_on_the_elements_and_not_on_the_sharding(group: CpuGroup) -> None:
    values = torch.randn(ELEMENTS).bfloat16()

    def checksum(values: Tensor, cut: list[int], dtype: torch.dtype = torch.bfloat16) -> dict[str, str]:
        sums = 0
        for start, length in ranges(cut):
            part = FrozenFragment(name="w", start=start, values=values[start : start + length])
            sums += int(frozen_checksums([part], dtype, group)["w"], 16)
        return {"w": f"{sums % 2**64:016x}"}

    expected = checksum(values, [])
    assert checksum(values, [1, 7, 30]) == expected
    assert checksum(values.float(), [20]) == expected, "an engine may keep the weights in float32"
    changed = values.clone()
    changed[3] += 1
    assert checksum(changed, []) != expected
    assert checksum(values.flip(0), []) != expected


def test_generators_continue_as_they_were() -> None:
    seed_generators(3, 1)
    torch.randn(3)
    state = {name: one.clone() for name, one in random_state().items()}
    after = torch.randn(3)
    seed_generators(3, 1, step=10)
    assert not torch.randn(3).equal(after)
    set_random_state(state)
    assert torch.randn(3).equal(after)
    with pytest.raises(ValueError, match="torch"):
        set_random_state(state | {"torch": torch.zeros(3, dtype=torch.uint8)})
