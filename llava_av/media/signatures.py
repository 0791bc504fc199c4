"""First bytes of files that are no supported media, so that an error names what the file is."""

from pathlib import Path

__all__ = ["describe_unsupported", "has_unknown_length"]

# Format name by (offset, bytes), as the formats' own specifications give them.
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


def describe_unsupported(head: bytes) -> str | None:
    """Return what a file that begins with `head` is and what to do, or None if the format is not known."""
    if head.startswith(_POINTER):
        return (
            "is a Git LFS pointer in place of the file: run `git lfs pull` in its clone, or download the file"
        )
    for formats, target in ((_MEDIA, "MP4, MKV or WAV"), (_IMAGES, "PNG or JPEG")):
        for offset, magic, name in formats:
            if head[offset : offset + len(magic)] == magic:
                return f"is {name}, which is not supported; convert it to {target}"
    return None


def has_unknown_length(path: Path) -> bool:
    """Return whether a file is RF64 whose writer could not go back to fill in the length (EBU Tech 3306)."""
    with path.open("rb") as file:
        head = file.read(36)
    return head[:4] in (b"RF64", b"BW64") and head[12:16] == b"ds64" and not any(head[28:36])
