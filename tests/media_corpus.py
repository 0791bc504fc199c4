"""A corpus of small media files: containers, codecs, rates, orientations, offsets and lengths.

`VIDEO_AND_AUDIO` lists the entries; each writes its file with `tests.media_writer`.
`tests/unit/test_media_corpus.py` compares what `llava_av.media` reads from each file with FFmpeg's sequential
decoding. `python -m tests.media_table` writes the table of docs/media.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.media_writer import Audio, Video, write


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the corpus."""

    name: str
    """File name."""
    note: str
    """Description of the special case, for the table."""
    make: Callable[[Path], Any]
    """Function that writes the file to a path."""
    video: Video | None
    """First video track."""
    audio: Audio | None
    """First audio track."""
    padding_s: float
    """Encoder delay before the audio that neither the container nor the video shows."""

    @property
    def zero_s(self) -> float:
        """Return the start time of the file according to the written timestamps."""
        starts = [track.start_s for track in (self.video, self.audio) if track is not None]
        return max(0.0, min(starts)) - self.padding_s


def _entry(name: str, note: str, format: str, *, padding_s: float = 0.0, **tracks: Any) -> Entry:
    audio = tracks.get("audio", ())
    return Entry(
        name=name,
        note=note,
        make=lambda path: write(path, format=format, **tracks),
        video=tracks.get("video"),
        audio=audio[0] if audio else None,
        padding_s=padding_s,
    )


def _audio(
    name: str, format: str, codec: str, rate_hz: int = 44_100, *, note: str = "", **more: Any
) -> Entry:
    track = Audio(codec=codec, rate_hz=rate_hz, **more)
    return _entry(name, note, format, audio=(track,))


_AAC = (Audio(),)
_AAC_PADDING_S = 1024 / 44_100
_OPUS = (Audio(codec="libopus", rate_hz=48_000),)
_MP3 = (Audio(codec="libmp3lame"),)
_PAL = Fraction(25)
_NTSC = Fraction(30_000, 1001)

_CONTAINERS = (
    _entry("h264.mp4", "B-frames", "mp4", video=Video(b_frames=2), audio=_AAC),
    _entry(
        "faststart.mp4",
        "index first",
        "mp4",
        video=Video(),
        audio=_AAC,
        options=(("movflags", "+faststart"),),
    ),
    _entry(
        "fragments.mp4",
        "fragmented",
        "mp4",
        video=Video(gop=5),
        audio=_AAC,
        options=(("movflags", "+frag_keyframe+delay_moov"),),
    ),
    _entry(
        "open_gop.mp4", "open groups of frames", "mp4", video=Video(b_frames=3, open_gop=True), audio=_AAC
    ),
    _entry("open_gop.mkv", "open groups of frames", "matroska", video=Video(b_frames=3, open_gop=True)),
    _entry("open_gop.avi", "open groups of frames", "avi", video=Video(b_frames=3, open_gop=True)),
    _entry("hevc.mp4", "HEVC", "mp4", video=Video(codec="libx265"), audio=_AAC),
    _entry("av1.mp4", "AV1", "mp4", video=Video(codec="libsvtav1"), audio=_OPUS),
    _entry("mpeg4.mp4", "MPEG-4 part 2", "mp4", video=Video(codec="mpeg4", b_frames=2), audio=_MP3),
    _entry(
        "prores.mov",
        "ProRes, 10 bits, PCM",
        "mov",
        video=Video(codec="prores_ks", pix_fmt="yuv422p10le"),
        audio=(Audio(codec="pcm_s16le"),),
    ),
    _entry("phone.mov", "H.264 in QuickTime", "mov", video=Video(b_frames=2), audio=(Audio(channels=2),)),
    _entry(
        "phone.3gp",
        "AMR at 8 kHz",
        "3gp",
        video=Video(codec="mpeg4"),
        audio=(Audio(codec="libopencore_amrnb", rate_hz=8_000),),
    ),
    _entry("h264.mkv", "B-frames", "matroska", video=Video(b_frames=2), audio=_AAC),
    _entry(
        "live.mkv", "no length, no index", "matroska", video=Video(), audio=_AAC, options=(("live", "1"),)
    ),
    _entry("ffv1.mkv", "lossless", "matroska", video=Video(codec="ffv1"), audio=(Audio(codec="flac"),)),
    _entry(
        "vp8.webm",
        "VP8, Vorbis",
        "webm",
        video=Video(codec="libvpx"),
        audio=(Audio(codec="vorbis", channels=2),),
    ),
    _entry("vp9.webm", "VP9, Opus", "webm", video=Video(codec="libvpx-vp9"), audio=_OPUS),
    _entry("xvid.avi", "packed B-frames", "avi", video=Video(codec="mpeg4", b_frames=2), audio=_MP3),
    _entry("h264.avi", "H.264 in AVI", "avi", video=Video(), audio=_MP3),
    _entry(
        "camera.avi",
        "Motion JPEG, PCM",
        "avi",
        video=Video(codec="mjpeg", pix_fmt="yuvj420p"),
        audio=(Audio(codec="pcm_s16le"),),
    ),
    _entry("broadcast.ts", "MPEG-TS", "mpegts", video=Video(b_frames=2, fps=_PAL), audio=_AAC),
    _entry(
        "camera.m2ts",
        "192-byte packets",
        "mpegts",
        video=Video(fps=_PAL),
        audio=_AAC,
        options=(("mpegts_m2ts_mode", "1"),),
    ),
    _entry(
        "dvd.mpg",
        "MPEG-2, B-frames",
        "dvd",
        video=Video(codec="mpeg2video", fps=_PAL, b_frames=2),
        audio=(Audio(codec="mp2", rate_hz=48_000),),
    ),
    _entry(
        "vcd.mpg", "MPEG-1", "mpeg", video=Video(codec="mpeg1video", fps=_PAL), audio=(Audio(codec="mp2"),)
    ),
    _entry("h264.flv", "H.264 in FLV", "flv", video=Video(b_frames=2), audio=_AAC),
    _entry("sorenson.flv", "Sorenson H.263", "flv", video=Video(codec="flv"), audio=_MP3),
    _entry(
        "windows.wmv", "WMV 8", "asf", video=Video(codec="wmv2"), audio=(Audio(codec="wmav2", channels=2),)
    ),
)

_TIMES = (
    _entry("silent.mp4", "no audio track", "mp4", video=Video()),
    _entry(
        "ntsc.mp4",
        "29.97 frames per second",
        "mp4",
        video=Video(fps=_NTSC, duration_s=1001 / 500),
        audio=_AAC,
    ),
    _entry(
        "ntsc.mkv",
        "29.97 in milliseconds",
        "matroska",
        video=Video(fps=_NTSC, duration_s=1001 / 500),
        audio=_AAC,
    ),
    _entry(
        "film.mkv", "24 frames, length 1.25 s", "matroska", video=Video(fps=Fraction(24), duration_s=1.25)
    ),
    _entry("film.mp4", "24 frames, length 1.25 s", "mp4", video=Video(fps=Fraction(24), duration_s=1.25)),
    _entry("uneven.mp4", "variable frame rate", "mp4", video=Video(uneven=True), audio=_AAC),
    _entry("uneven.mkv", "variable frame rate", "matroska", video=Video(uneven=True), audio=_AAC),
    _entry("offset.mkv", "starts at 10 s", "matroska", video=Video(start_s=10), audio=(Audio(start_s=10),)),
    _entry("offset.webm", "starts at 10 s", "webm", video=Video(codec="libvpx-vp9", start_s=10)),
    _entry(
        "offset.ts", "starts at 10 s", "mpegts", video=Video(start_s=10, fps=_PAL), audio=(Audio(start_s=10),)
    ),
    _entry("offset.mp4", "edit list from 10 s", "mp4", video=Video(start_s=10), audio=(Audio(start_s=10),)),
    _entry(
        "offset.opus",
        "audio alone, starts at 10 s",
        "ogg",
        audio=(Audio(codec="libopus", rate_hz=48_000, start_s=10),),
    ),
    _entry("offset.mka", "audio alone, starts at 10 s", "matroska", audio=(Audio(start_s=10),)),
    _entry(
        "late_video.mp4", "video starts 1 s late", "mp4", video=Video(start_s=1), audio=(Audio(duration_s=3),)
    ),
    _entry(
        "late_video.mkv",
        "video starts 1 s late",
        "matroska",
        video=Video(start_s=1),
        audio=(Audio(duration_s=3),),
    ),
    _entry(
        "late_video.ts",
        "video starts 1 s late",
        "mpegts",
        video=Video(start_s=1, fps=_PAL),
        audio=(Audio(duration_s=3),),
        padding_s=_AAC_PADDING_S,
    ),
    _entry(
        "late_audio.mp4",
        "audio starts 1 s late",
        "mp4",
        video=Video(),
        audio=(Audio(start_s=1, duration_s=1),),
    ),
    _entry(
        "late_audio.mkv",
        "audio starts 1 s late",
        "matroska",
        video=Video(),
        audio=(Audio(start_s=1, duration_s=1),),
    ),
    _entry("audio_longer.mp4", "audio lasts 5 s", "mp4", video=Video(), audio=(Audio(duration_s=5),)),
    _entry("audio_longer.mkv", "audio lasts 5 s", "matroska", video=Video(), audio=(Audio(duration_s=5),)),
    _entry(
        "audio_longer.avi",
        "audio lasts 5 s",
        "avi",
        video=Video(),
        audio=(Audio(codec="libmp3lame", duration_s=5),),
    ),
    _entry(
        "audio_longer.ts", "audio lasts 5 s", "mpegts", video=Video(fps=_PAL), audio=(Audio(duration_s=5),)
    ),
    _entry(
        "second_audio.mkv",
        "second audio lasts 5 s",
        "matroska",
        video=Video(),
        audio=(Audio(), Audio(duration_s=5)),
    ),
    _entry(
        "second_audio.mp4",
        "second audio lasts 5 s",
        "mp4",
        video=Video(),
        audio=(Audio(), Audio(duration_s=5)),
    ),
    _entry(
        "second_video.mkv",
        "second video lasts 4 s",
        "matroska",
        video=Video(),
        second_video=Video(duration_s=4, rotation=180),
        audio=_AAC,
    ),
    _entry("subtitles.mkv", "subtitles last 9 s", "matroska", video=Video(), audio=_AAC, subtitles_until_s=9),
    _entry("video_longer.mkv", "audio lasts 1 s", "matroska", video=Video(), audio=(Audio(duration_s=1),)),
    _entry(
        "trimmed.mp4", "edit list cuts 0.5 s", "mp4", video=Video(start_s=-0.5, duration_s=2.5, b_frames=2)
    ),
    _entry("cover.mp3", "cover art", "mp3", audio=_MP3, cover=True),
    _entry("cover.m4a", "cover art", "mp4", audio=_AAC, cover=True),
    _entry("cover.flac", "cover art", "flac", audio=(Audio(codec="flac"),), cover=True),
    _entry(
        "opus_offset.webm",
        "Opus starts at 10 s",
        "webm",
        audio=(Audio(codec="libopus", rate_hz=48_000, start_s=10),),
    ),
)

_ORIENTATIONS = tuple(
    _entry(
        f"turned_{rotation}{'_hflip' if hflip else ''}{'_vflip' if vflip else ''}.{ending}",
        f"display matrix: {rotation}°{' hflip' if hflip else ''}{' vflip' if vflip else ''}",
        format,
        video=Video(rotation=rotation, hflip=hflip, vflip=vflip, duration_s=1),
    )
    for rotation, hflip, vflip, ending, format in (
        (90, False, False, "mp4", "mp4"),
        (180, False, False, "mp4", "mp4"),
        (270, False, False, "mov", "mov"),
        (0, True, False, "mp4", "mp4"),
        (0, False, True, "mp4", "mp4"),
        (90, True, False, "mp4", "mp4"),
        (270, True, False, "mov", "mov"),
        (90, False, True, "mp4", "mp4"),
        (90, False, False, "mkv", "matroska"),
        (180, False, False, "mkv", "matroska"),
    )
)

_AUDIO = (
    _audio("cd.wav", "wav", "pcm_s16le", channels=2, note="stereo"),
    _audio("deep.wav", "wav", "pcm_s24le", 96_000, note="24 bits"),
    _audio("wide.wav", "wav", "pcm_s64le", channels=2, note="64 bits"),
    _audio("double.wav", "wav", "pcm_f64le", note="floating point, 64 bits"),
    _audio("float.wav", "wav", "pcm_f32le", 48_000, note="floating point"),
    _audio("bytes.wav", "wav", "pcm_u8", 8_000, note="8 bits"),
    _audio("telephone.wav", "wav", "pcm_mulaw", 8_000, note="µ-law"),
    _audio("adpcm.wav", "wav", "adpcm_ms", note="ADPCM"),
    _audio("surround.wav", "wav", "pcm_s16le", channels=6, note="5.1"),
    _audio("prime.wav", "wav", "pcm_s16le", 11_127, note="rate with divisor 1"),
    _audio("near.wav", "wav", "pcm_s16le", 44_099, note="rate with divisor 1"),
    _audio("slow.wav", "wav", "pcm_s16le", 100, note="100 Hz"),
    _audio("fast.wav", "wav", "pcm_s16le", 768_000, note="768 kHz"),
    _audio("long.w64", "w64", "pcm_s16le"),
    _entry(
        "archive.wav",
        "RF64",
        "wav",
        audio=(Audio(codec="pcm_s16le"),),
        options=(("rf64", "always"),),
    ),
    _audio("mac.aiff", "aiff", "pcm_s16be"),
    _audio("unix.au", "au", "pcm_mulaw", 8_000),
    _audio("apple.caf", "caf", "pcm_s16be"),
    _audio("voice.amr", "amr", "libopencore_amrnb", 8_000),
    _audio("music.flac", "flac", "flac", channels=2),
    _audio("music.mp3", "mp3", "libmp3lame", channels=2),
    _audio("mono.mp3", "mp3", "libmp3lame", 16_000, note="MPEG-2 layer III"),
    _audio("music.ogg", "ogg", "vorbis", channels=2),
    _audio("flac.ogg", "ogg", "flac"),
    _audio("voice.opus", "ogg", "libopus", 48_000),
    _audio("opus.webm", "webm", "libopus", 48_000),
    _audio("music.m4a", "ipod", "aac", channels=2),
    _audio("lossless.m4a", "ipod", "alac"),
    _audio("stream.aac", "adts", "aac", note="ADTS"),
    _audio("music.mka", "matroska", "vorbis", channels=2),
    _audio("music.wma", "asf", "wmav2", channels=2),
    _audio("audio.ts", "mpegts", "mp2", 48_000, note="no video track"),
)

VIDEO_AND_AUDIO: tuple[Entry, ...] = (*_CONTAINERS, *_TIMES, *_ORIENTATIONS, *_AUDIO)
"""Every video and audio file of the corpus; still images are in `tests/media_corpus_images.py`."""
