"""The steps of the pipeline, each a function that a command and the pipeline call alike.

Nothing is imported here: each step needs a few heavy packages of its own.
"""

__all__: list[str] = []
