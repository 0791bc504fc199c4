"""Media files: `container` and `check` say what they hold, `decode` reads, `encode` writes, `scene` draws.

Nothing is imported here: the decoders are slow to load, and not every command needs them.
"""

__all__: list[str] = []
