import re
from pathlib import Path

import numpy as np
import pytest

from llava_av.media.check import check_media
from llava_av.media.container import MediaError, probe
from llava_av.media.decode import frame_times, read_frames
from tests.media_comparison import compare
from tests.media_corpus import VIDEO_AND_AUDIO, Entry
from tests.media_samples import remux

ALL = {entry.name: entry for entry in VIDEO_AND_AUDIO}
VIDEOS = {name: entry for name, entry in ALL.items() if entry.video is not None}
# No times, wrong seeking, no decoder, cut by an edit list, or mirrored.
DECORD_REFUSES = {
    name
    for name, entry in VIDEOS.items()
    if Path(name).suffix in (".avi", ".ts", ".m2ts", ".mpg", ".wmv")
    or name in ("av1.mp4", "live.mkv", "mpeg4.mp4", "open_gop.mp4", "open_gop.mkv", "trimmed.mp4")
    or "flip" in name
    or (name.startswith("turned") and name.endswith(".mkv"))
}
DOCS = Path(__file__).parents[2] / "docs" / "media.md"
# Encoders pad the audio, and these containers do not say by how much; measured: 46 ms at most, of WMA.
UNTOLD_S = 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus")


def _file(entry: Entry, folder: Path) -> Path:
    path = folder / entry.name
    if not path.exists():
        entry.make(path)
    return path


def test_the_corpus_has_enough_files() -> None:
    assert len(ALL) == len(VIDEO_AND_AUDIO) >= 60
    endings = {Path(name).suffix[1:] for name in ALL}
    assert endings >= {"mp4", "mov", "mkv", "webm", "avi", "ts", "mpg", "flv", "wmv", "3gp"}
    assert endings >= {"wav", "mp3", "flac", "ogg", "opus", "m4a", "aac", "aiff", "au", "caf", "amr"}


@pytest.mark.parametrize("name", ALL)
def test_read_media_equal_ffmpegs_decoding(name: str, folder: Path) -> None:
    entry = ALL[name]
    compared = compare(entry, _file(entry, folder))
    assert compared.frame_error == 0
    # Conversions to floating point differ in the last bits.
    assert compared.audio_error < 1e-6
    assert abs(compared.audio_shift_s) < UNTOLD_S
    if entry.video is not None:
        assert compared.duration_s == pytest.approx(compared.expected_s, abs=1e-3)
    else:
        assert compared.duration_s == pytest.approx(compared.expected_s, abs=UNTOLD_S)
        assert compared.audio_s == pytest.approx(compared.duration_s, abs=UNTOLD_S)


@pytest.mark.parametrize("name", ALL)
def test_intact_files_of_the_corpus_pass(name: str, folder: Path) -> None:
    path = _file(ALL[name], folder)
    assert check_media(path) == probe(path)


@pytest.mark.parametrize("name", VIDEOS)
def test_decord_decodes_the_same_frames_or_refuses(name: str, folder: Path) -> None:
    path = _file(VIDEOS[name], folder)
    times = frame_times(probe(path).duration_s, frames_per_s=5, max_frames=32)
    frames = read_frames(path, times, size=40).astype(int)
    for some in (slice(None), slice(-1, None), slice(len(times) // 3, None, 5)):
        if name in DECORD_REFUSES:
            with pytest.raises(MediaError, match=r"decord cannot decode it \(.+\); set decoder: pyav"):
                read_frames(path, times[some], size=40, decoder="decord")
        else:
            seen = read_frames(path, times[some], size=40, decoder="decord")
            # Another scaler; another frame differs by 3 and more. Measured: 1.4.
            assert np.abs(seen - frames[some]).mean(axis=(1, 2, 3)).max() < 2


@pytest.mark.parametrize(
    "name", ["h264.mp4", "open_gop.mp4", "ntsc.mp4", "film.mp4", "audio_longer.mp4", "late_audio.mp4"]
)
@pytest.mark.parametrize("ending", ["mov", "mkv", "ts", "flv", "3gp"])
def test_equal_packets_give_equal_samples_in_every_container(name: str, ending: str, folder: Path) -> None:
    path = _file(ALL[name], folder)
    other = remux(path, folder / f"{path.stem}_again.{ending}")
    length, other_length = probe(path).duration_s, probe(other).duration_s
    # FLV states 29.97 frames per second as a decimal fraction.
    assert other_length == pytest.approx(length, abs=3e-5)
    times = [frame_times(one, frames_per_s=2, max_frames=32) for one in (length, other_length)]
    frames = [read_frames(one, at, size=32) for one, at in zip((path, other), times, strict=True)]
    assert np.array_equal(*frames)


def test_docs_list_the_corpus() -> None:
    listed = re.findall(r"^\| `([^`]+)` \|", DOCS.read_text().split("## Still images")[0], re.MULTILINE)
    assert listed == list(ALL)
