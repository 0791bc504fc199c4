"""Exports of commits to the formats of other tools, which `sources.convert` reads again.

`shards` divides the samples of a commit into shards of a bounded size. `tar_shards` writes a shard as a
WebDataset tar and `parquet_shards` as a Parquet file. `exporting` downloads the media of each shard, verifies
their digests, and makes the folder appear whole. Equal commits give equal bytes.
"""

__all__: list[str] = []
