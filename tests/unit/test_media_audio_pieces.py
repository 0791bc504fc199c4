from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from llava_av.media.audio_pieces import mono_pieces
from llava_av.media.container import open_media
from llava_av.media.tracks import audio_stream, decoded
from tests.media_samples import RATE_HZ, click, write_audio

LENGTH_S = 3.0


def pieces_of(path: Path, end_s: float = 100.0) -> list[tuple[int, float]]:
    """Return the length and the start of each piece."""
    with open_media(path) as container:
        found = mono_pieces(container, audio_stream(container), path, Fraction(end_s))
        return [(len(piece), float(start_s or 0)) for piece, _, start_s in found]


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mkv", "aac")])
def test_frames_without_gaps_are_pieces_of_about_a_second(tmp_path: Path, name: str, codec: str) -> None:
    path = write_audio(tmp_path / name, click(1.0, LENGTH_S)[None], RATE_HZ, codec)
    pieces = pieces_of(path)
    assert len(pieces) <= LENGTH_S + 2
    assert sum(length for length, _ in pieces) == pytest.approx(LENGTH_S * RATE_HZ, abs=2048)
    starts = np.cumsum([0, *(length for length, _ in pieces[:-1])]) / RATE_HZ
    assert [start_s for _, start_s in pieces] == pytest.approx(starts.tolist(), abs=1e-6)
    with open_media(path) as container:
        assert len(list(decoded(container, audio_stream(container)))) > len(pieces)


def test_a_piece_ends_when_the_reader_has_enough(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.m4a", click(1.0, LENGTH_S)[None], RATE_HZ, "aac")
    length, _ = pieces_of(path, end_s=0.1)[0]
    assert 0.1 * RATE_HZ <= length < 0.5 * RATE_HZ
