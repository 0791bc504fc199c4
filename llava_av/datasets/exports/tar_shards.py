"""WebDataset tars: `KEY.json` with the sample, and `KEY.ENDING` or `KEY.N.ENDING` for each media file.

The key is the number of the sample in its split. The endings are those of the paths in the sample, by which
`sources.webdataset` matches members and paths.
"""

import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from llava_av.datasets.exports.shards import Shard
from llava_av.datasets.manifest import safe_path
from llava_av.datasets.schema import Sample
from llava_av.datasets.sources.webdataset import is_media_ending

__all__ = ["tar_overhead", "write_tar"]


def tar_overhead(size: int) -> int:
    """Return the bytes that a tar adds to a member: its header and its padding."""
    return tarfile.BLOCKSIZE + -size % tarfile.BLOCKSIZE


def write_tar(target: Path, shard: Shard, media: Path) -> None:
    """Write a shard.

    Args:
        target: File to write.
        shard: The shard.
        media: Folder with its media.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for number, sample in enumerate(shard.samples, start=shard.first):
            key = f"{number:09d}"
            line = sample.to_json_line().encode()
            tar.addfile(_member(f"{key}.json", len(line)), io.BytesIO(line))
            for ending, path in _members(sample):
                local = media / path
                with local.open("rb") as file:
                    tar.addfile(_member(f"{key}.{ending}", local.stat().st_size), file)


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Return the header of a member, which has no time and no owner."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def _members(sample: Sample) -> Iterator[tuple[str, str]]:
    """Yield ending and path of a sample's media files, each file once."""
    kinds: dict[str, str] = {}
    for kind in ("image", "video", "audio"):
        for path in getattr(sample, kind):
            kinds.setdefault(safe_path(path), kind)
    suffixes = {path: _suffix(path, kind) for path, kind in kinds.items()}
    total, done = Counter(suffixes.values()), Counter[str]()
    for path, suffix in suffixes.items():
        yield (suffix if total[suffix] == 1 else f"{done[suffix]}.{suffix}"), path
        done[suffix] += 1


def _suffix(path: str, kind: str) -> str:
    suffix = PurePosixPath(path).suffix[1:].lower()
    # Only these endings are read again as media.
    return suffix if is_media_ending(suffix) else kind
