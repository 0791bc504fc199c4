"""Integrity checks of a media file: all of it decodes, or its headers alone fit the size of the file.

Decoders are slow to load, so a folder of images does not load those of video and audio, and vice versa.
"""

from pathlib import Path

from llava_av.media.image_formats import content_format, image_format
from llava_av.media.info import MediaInfo

__all__ = ["check_headers", "check_media"]


def check_media(path: Path | str, content: bytes | None = None) -> MediaInfo:
    """Read and decode a file once from start to end, packet by packet.

    The check finds truncation (the index points beyond the end, packets are damaged, or there are fewer bytes
    or seconds than the header states) and video or audio that does not decode. It cannot find damage that
    still decodes, because changed bytes in a compressed frame may be a valid frame. In formats designed to be
    resumed it accepts what players skip: tags and joints in MP3 and ADTS, a truncated MPEG-TS.

    Args:
        path: The file.
        content: Content of an image that was read already; its file is not read again.

    Raises:
        MediaError: The file is damaged or incomplete.
    """
    if _is_image(path, content):
        from llava_av.media.image_frames import check_image

        return check_image(path, content)
    from llava_av.media.track_checks import check_tracks

    return check_tracks(Path(path))


def check_headers(path: Path | str, content: bytes | None = None) -> MediaInfo:
    """Inspect a file as `check_media` does, but decode nothing that its properties do not require.

    The check finds files that are no media, and those that are shorter than their index or header states.
    Formats whose headers state no length are read to the end, packet by packet. Arguments as for
    `check_media`.

    Raises:
        MediaError: The file is damaged or incomplete.
    """
    if _is_image(path, content):
        from llava_av.media.image_frames import describe_image

        return describe_image(path, content)
    from llava_av.media.track_checks import check_track_headers

    return check_track_headers(Path(path))


def _is_image(path: Path | str, content: bytes | None) -> bool:
    return (image_format(path) if content is None else content_format(content)) is not None
