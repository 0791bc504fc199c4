"""Datasets: from a user's folder of media and conversations to decoded samples.

`schema` defines one sample and its JSON line. The package `sources` reads what users write: `rows` finds the
lines of a folder, `line_keys` maps their keys to those of a sample, `sample_checks` refuses unusable samples,
`sample_rows` keeps what a commit needs of them, `convert` turns the files of other tools into a folder, and
`folder` reads a folder and checks every media file (`file_checks`); the texts and digests of a large one are
in temporary files (`spilled`, `digest_index`). `split` divides the samples into a training and a held-out set
that share no media.

`manifest` defines a dataset commit and its keys in S3: a manifest lists ranges, and `ranges` cuts files and
samples into them. `placements` names the packs that hold small files of a range. `reading` gives the files
and samples of a commit of any version, or of a folder, range by range, and `media_blobs` downloads the files.
`file_cache` remembers digests of files on this machine, `folder_files` recognizes the files of a folder that
have not changed, and `folder_stamp` a whole folder, `media_checks` checks media files at a chosen depth,
`stored_checks` shares the results among machines, `pending_checks` decodes files that were committed without
decoding, and `ingest_results` exchanges results among the processes of a distributed ingest. `stored_blobs`
collects the media that a new commit takes over from the newest one, `blob_sources` names the sources of its
content, `uploads` and `packs` write the content that the newest commit lacks, `committing` commits new
content, and `commits` writes and reads commits; `rebase` joins the changes of two writers. `writers` keeps
commits and the deletion of unused blobs apart. `history` stores the author, time and message of a commit, and
`media_facts` the properties of its media. `tags` gives names to commits, and `commit_names` finds the commit
that a user's text names. `contents` reads the samples of a commit, `comparison` compares two contents,
`statistics` describes one, `excerpt` chooses some samples of a commit to look at, and `extraction` copies a
commit to a folder that can be committed again; the package `exports` writes one as tars or Parquet files.
`merging` joins several commits and `filtering` selects a subset of one; `derived_content` cuts and writes the
ranges of both, and `derived_commits` commits them. `previous_version` compares a folder with the newest
commit of its dataset, `verification` compares stored content with its digests, and `repairing` replaces what
is damaged.

For training and evaluation, `sample_table` maps the samples of a split from the local disk, `commit_files`
finds the media files of a commit, `media_stream` fetches them before they are used, and `blob_cache` keeps
those that the jobs of a node need next. `mix` joins the samples of several commits, whose `sample_columns`
determine their order. `loading` decodes the media of a sample from a `media_source`, and `measuring` finds
the samples that a model cannot take (`unfit`).

`demo` writes the demonstration dataset from the clips that `demo_scenes` draws.

This package imports nothing here, because some modules need decoders and others an object store.
"""

__all__: list[str] = []
