"""Parquet files with one row for each sample and the content of its media, as Hugging Face stores them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_av.datasets.exports.shards import Shard
from llava_av.datasets.manifest import safe_path
from llava_av.datasets.schema import Sample
from llava_av.errors import UserError

__all__ = ["parquet_overhead", "write_parquet"]

# A reader needs memory for one row group.
_GROUP_BYTES, _GROUP_ROWS = 64 << 20, 1000
# Offsets in a column have 31 bits.
_MAX_BYTES = (1 << 31) - (1 << 20)
_MEDIA = ("image", "video", "audio")


def parquet_overhead(_size: int) -> int:
    """Return about the bytes that Parquet adds to a value."""
    return 64


def write_parquet(target: Path, shard: Shard, media: Path) -> None:
    """Write a shard; arguments as for `write_tar`.

    Raises:
        UserError: A sample is too large for Parquet, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError:
        raise UserError(
            "Parquet cannot be written without pyarrow: install it with `pip install 'llava-av[local]'`"
        ) from None
    schema = _schema(pa)
    with ParquetWriter(
        target, schema, compression="none", use_dictionary=False, write_statistics=False
    ) as writer:
        for samples in _groups(shard, media):
            rows = [_row(sample, media) for sample in samples]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=len(rows))


def _schema(pa: Any) -> Any:
    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema(
        [
            ("id", pa.string()),
            ("conversations", pa.list_(turn)),
            *((kind, pa.list_(file)) for kind in _MEDIA),
            ("use_audio", pa.bool_()),
            ("kind", pa.string()),
            ("choices", pa.list_(pa.string())),
            ("split", pa.string()),
        ]
    )


def _groups(shard: Shard, media: Path) -> Iterator[list[Sample]]:
    """Yield the samples of each row group."""
    group: list[Sample] = []
    size = 0
    for sample in shard.samples:
        own = sum((media / safe_path(path)).stat().st_size for path in sample.media)
        if own > _MAX_BYTES:
            raise UserError(
                f"sample {sample.id} has {own} bytes of media, more than the {_MAX_BYTES} that Parquet can "
                "hold in one row: use --format webdataset"
            )
        if group and (size + own > _GROUP_BYTES or len(group) == _GROUP_ROWS):
            yield group
            group, size = [], 0
        group.append(sample)
        size += own
    yield group


def _row(sample: Sample, media: Path) -> dict[str, Any]:
    row = sample.model_dump(mode="json", by_alias=True)
    for kind in _MEDIA:
        row[kind] = [{"bytes": (media / safe_path(path)).read_bytes(), "path": path} for path in row[kind]]
    return row
