"""Division of a commit's samples into shards of a bounded size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llava_av.datasets.contents import Contents, stating_split
from llava_av.datasets.manifest import safe_path
from llava_av.datasets.schema import Sample

__all__ = ["Shard", "plan_shards"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Consecutive samples of one split that become one file."""

    split: str
    number: int
    """Number of the shard in its split, from 0."""
    first: int
    """Number of the first sample in its split, from 0."""
    samples: tuple[Sample, ...]
    """The samples; each states its split."""

    @property
    def name(self) -> str:
        """Name of the file without its ending."""
        return f"{self.split}-{self.number:05d}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the media, each once."""
        return tuple(dict.fromkeys(safe_path(path) for sample in self.samples for path in sample.media))


def plan_shards(contents: Contents, max_bytes: int, overhead: Callable[[int], int]) -> tuple[Shard, ...]:
    """Divide samples into shards that have at most `max_bytes`, or one sample.

    Args:
        contents: The samples, sorted by ID, and their files.
        max_bytes: Maximum size.
        overhead: Returns the bytes that the format adds to a file of a size.
    """
    return tuple(
        shard
        for split, samples in sorted(contents.samples.items())
        for shard in _of_split(contents, split, samples, max_bytes, overhead)
    )


def _of_split(
    contents: Contents,
    split: str,
    samples: tuple[Sample, ...],
    max_bytes: int,
    overhead: Callable[[int], int],
) -> Iterator[Shard]:
    number = first = size = 0
    own: list[Sample] = []
    for sample in samples:
        stated = stating_split(sample, split)
        files = [contents.files[path].bytes for path in dict.fromkeys(map(safe_path, sample.media))]
        sizes = [len(stated.to_json_line().encode()), *files]
        added = sum(one + overhead(one) for one in sizes)
        if own and size + added > max_bytes:
            yield Shard(split=split, number=number, first=first, samples=tuple(own))
            number, first, size, own = number + 1, first + len(own), 0, []
        own.append(stated)
        size += added
    if own:
        yield Shard(split=split, number=number, first=first, samples=tuple(own))
