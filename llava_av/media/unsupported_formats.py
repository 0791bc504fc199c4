"""Signatures of unsupported media formats, so that an error names the format of a file."""

import struct
from pathlib import Path

__all__ = ["describe_unsupported", "has_unknown_length"]

# Offset, bytes and name of each format, from the formats' specifications.
_MEDIA = (
    (0, b"\x0b\x77", "AC-3 audio"),
    (0, b"\x77\x0b", "AC-3 audio"),
    (0, b"\x7f\xfe\x80\x01", "DTS audio"),
    (0, b"\xfe\x7f\x01\x80", "DTS audio"),
    (0, b"\x1f\xff\xe8\x00", "DTS audio"),
    (0, b"\xff\x1f\x00\xe8", "DTS audio"),
    (0, b"DTSHDHDR", "DTS-HD audio"),
    (0, b"\xac\x40", "AC-4 audio"),
    (0, b"\xac\x41", "AC-4 audio"),
    (4, b"\xf8\x72\x6f\xba", "Dolby TrueHD audio"),
    (4, b"\xf8\x72\x6f\xbb", "MLP audio"),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01", "MXF"),
    (0, b".RMF", "RealMedia"),
    (0, b".ra\xfd", "RealAudio"),
    (0, b"wvpk", "WavPack audio"),
    (0, b"TTA1", "True Audio"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"tBaK", "TAK audio"),
    (0, b"MPCK", "Musepack audio"),
    (0, b"MP+", "Musepack audio"),
    (0, b"DSD ", "DSD audio"),
    (0, b"FRM8", "DSD audio"),
    (0, b"MThd", "MIDI"),
    (0, b"Creative Voice File", "Creative Voice audio"),
    (0, b"nut/multimedia container", "NUT"),
    (0, b"DKIF", "IVF"),
    (0, b"YUV4MPEG2", "raw YUV4MPEG2 video"),
    (0, b"\x1f\x07\x00", "raw DV video"),
    (0, b"FWS", "Flash"),
    (0, b"CWS", "Flash"),
    (0, b"\xb7\xd8\x00\x20\x37\x49\xda\x11", "WTV"),
    (0, b"\x00\x00\x00\x00\x05\x01\x02", "GXF"),
    (0, b"ADIF", "AAC in ADIF"),
)
_IMAGES = (
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"8BPS", "Photoshop's PSD"),
    (0, b"%PDF-", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"\0\0\1\0", "a Windows icon"),
    (0, b"DDS ", "DDS"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"),
    (0, b"qoif", "QOI"),
    (0, b"P7\n", "PAM"),
    (0, b"PF\n", "PFM"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster image"),
    (0, b"\x01\xda\x00", "an SGI image"),
    (0, b"\x01\xda\x01", "an SGI image"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"<svg", "SVG"),
)
_POINTER = b"version https://git-lfs"
# ID length, colour map and image type; the map's start, length and bits; x, y, width, height, bits and flags.
_TGA_HEADER = struct.Struct("<BBBHHBHHHHBB")
_TGA_COMPRESSED = 9
# Allowed bits per pixel by image type: colour-mapped, true-colour and grey, each also compressed.
_TGA_MAPPED, _TGA_COLOUR, _TGA_GREY = (8, 15, 16), (15, 16, 24, 32), (8, 16)
_TGA_BITS = {
    **{1: _TGA_MAPPED, 2: _TGA_COLOUR, 3: _TGA_GREY},
    **{9: _TGA_MAPPED, 10: _TGA_COLOUR, 11: _TGA_GREY},
}


def describe_unsupported(head: bytes, size: int) -> str | None:
    """Return the name of an unsupported format and what to do; None if the format is unknown.

    Args:
        head: First 64 bytes of the file.
        size: Size of the file in bytes.
    """
    if head.startswith(_POINTER):
        return (
            "is a Git LFS pointer, not the file itself: run `git lfs pull` in its clone, or download the file"
        )
    for formats, target in ((_MEDIA, "MP4, MKV or WAV"), (_IMAGES, "PNG or JPEG")):
        for offset, magic, name in formats:
            if head[offset : offset + len(magic)] == magic:
                return f"is {name}, which is not supported; convert it to {target}"
    return (
        "is a TGA image, which is not supported; convert it to PNG or JPEG" if _is_tga(head, size) else None
    )


def _is_tga(head: bytes, size: int) -> bool:
    """Check whether all fields of a header are those of a TGA image, which has no signature.

    Fields and their values are those of the Truevision TGA specification 2.0. The colour map and the pixels
    of an uncompressed image must also fit into the file.
    """
    if len(head) < _TGA_HEADER.size:
        return False
    id_bytes, has_map, kind, _, map_length, map_bits, *_, width, height, bits, flags = (
        _TGA_HEADER.unpack_from(head)
    )
    if bits not in _TGA_BITS.get(kind, ()) or not width or not height or flags & 0xC0:
        return False
    map_fits = map_length and map_bits in _TGA_COLOUR if has_map else not map_length and kind not in (1, 9)
    pixel_bytes = width * height * -(-bits // 8) if kind < _TGA_COMPRESSED else 0
    needed = _TGA_HEADER.size + id_bytes + map_length * -(-map_bits // 8) + pixel_bytes
    return bool(has_map <= 1 and map_fits and size >= needed)


def has_unknown_length(path: Path) -> bool:
    """Check whether a file is RF64 whose writer could not fill in the length afterwards (EBU Tech 3306)."""
    with path.open("rb") as file:
        head = file.read(36)
    return head[:4] in (b"RF64", b"BW64") and head[12:16] == b"ds64" and not any(head[28:36])
