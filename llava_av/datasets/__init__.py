"""Samples and where they live: `schema`, a user's `folder`, the `demo`, `split`s, `commits`, `loading`.

Nothing is imported here: some of these need decoders, others an object store.
"""

__all__: list[str] = []
