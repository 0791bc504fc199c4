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


def describe_unsupported(head: bytes) -> str | None:
    """Return what a file that begins with `head` is, or None if the format is not known."""
    for offset, magic, name in _MEDIA:
        if head[offset : offset + len(magic)] == magic:
            return name
    return None


def has_unknown_length(path: Path) -> bool:
    """Return whether a file is RF64 whose writer could not go back to fill in the length (EBU Tech 3306)."""
    with path.open("rb") as file:
        head = file.read(36)
    return head[:4] in (b"RF64", b"BW64") and head[12:16] == b"ds64" and not any(head[28:36])
