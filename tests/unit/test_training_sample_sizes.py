"""Sizes of samples as arrays: what goes in comes out, in few bytes."""

from collections.abc import Iterator

import pytest
from torch import distributed

from llava_av.media.clip import SampleSize
from llava_av.training.sample_sizes import SampleSizes

SIZES = [
    SampleSize(tokens=900, frames=(8, 1), image_tiles=0, audios=(2**31 - 1,)),
    None,
    SampleSize(tokens=12),
    SampleSize(tokens=0, image_tiles=5, audios=(16_000, 0)),
]


@pytest.fixture(autouse=True)
def _group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("sizes", [SIZES, SIZES[::-1], SIZES[1:2], []])
def test_sizes_are_the_same_after_the_exchange(sizes: list[SampleSize | None]) -> None:
    """`tests.micro_batch_steps` exchanges them between several processes."""
    found = SampleSizes.of(sizes).gathered()
    assert list(found) == [size for size in sizes if size is not None]
    assert found.are_fit() == [size is not None for size in sizes]


def test_a_sample_takes_16_bytes_and_4_for_each_video_and_audio() -> None:
    video = SampleSize(tokens=900, frames=(8,), audios=(16_000,))
    found = SampleSizes.of([video] * 1000)
    assert found.counts.nbytes + found.media.nbytes == 1000 * (16 + 2 * 4)


def test_a_size_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OverflowError):
        SampleSizes.of([SampleSize(tokens=1, audios=(2**31,))])
