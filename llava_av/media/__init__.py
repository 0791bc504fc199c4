"""Media files in and arrays out: inspect, check, decode and encode video, audio and images.

Start with `clip`, which defines the arrays that the rest of llava_av works with, `resizing`, which defines
how a model wants them resized, and `info`, which defines `MediaInfo` and `MediaError`.

Video and audio: `container` opens a file and inspects it; `unsupported_formats` names what it refuses.
`tracks` selects the tracks, gives them one clock and finds where they end. `decode` reads frames and audio:
`seeking` finds frames by their times, `orientation` turns frames upright, `decord_frames` is the second
decoder, `audio_pieces` decodes audio to mono, `audio_assembly` puts its pieces on the file's clock and
`audio_resampling` converts them to one rate.
`audio_length` predicts the result from the headers. `encode` writes MP4 and JPEG files.

Images: `image_formats` identifies a format by its first bytes, `image_limits` refuses what is too large or
incomplete, `image_decoding` opens and decodes, `image_frames` yields the frames of animations with their
times, `image_scaling` resizes, and `image` is the interface that reads an image at a wanted size.

`check` decodes a whole file to find damage, or reads only its headers; `track_checks` does so for video and
audio, and compares the size of the file with `stated_size`.

This package imports nothing here, because decoders are slow to load and not every command needs them.
"""

__all__: list[str] = []
