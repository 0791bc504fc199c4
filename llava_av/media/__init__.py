"""Media files: `container` and `check` say what they hold, `decode` reads, `encode` writes, `scene` draws.

Images go their own way: `image_formats` tells them by content, `image_limits` says what is refused, `stills`
opens and decodes, `animation` gives frames with times, `image` resizes. `info` is shared.
`container` opens a file (`signatures` names formats that are not supported) and `tracks` gives it a clock and
lengths. `decode` reads frames, turned upright by `orientation` or decoded by `decord_frames`, and audio, put
together by `assembly` and brought to one rate by `resample`. `check` finds truncation by `extent`, and damage
by decoding everything.

Nothing is imported here: the decoders are slow to load, and not every command needs them.
"""

__all__: list[str] = []
