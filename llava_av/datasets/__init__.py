"""Samples and where they live.

`schema` is one sample; `keys` and `vetting` say what a user's line may hold, `rows` finds the lines,
`convert` makes them of other tools' files, and `folder` checks them with their media. `split` holds samples
out, `commits` keeps them in S3, and `versions` compares a folder with what is there; `demo` makes the
demonstration. `loading` decodes a sample.

Nothing is imported here: some of these need decoders, others an object store.
"""

__all__: list[str] = []
