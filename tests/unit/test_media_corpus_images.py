"""Every image of the corpus: decoded like Pillow, upright, by content only, completely or not at all."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from llava_av.datasets.loading import load_image, load_video
from llava_av.media.check import check_media
from llava_av.media.decode import MediaError, probe, read_audio, read_frames
from llava_av.media.image import image_size, read_image
from llava_av.media.image_frames import frames_of_image
from llava_av.recipe import MediaRecipe
from tests.media_corpus_images import FRAME_S, IMAGES, Entry, by_pillow, scene

# Pillow warns about truncated images.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

ANIMATIONS = [entry for entry in IMAGES if entry.frames > 1]
NAMED = pytest.mark.parametrize("entry", IMAGES, ids=lambda entry: entry.name)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for entry in IMAGES:
        entry.make(folder / entry.name)
    return folder


@NAMED
def test_an_image_is_what_pillow_decodes_upright(corpus: Path, entry: Entry) -> None:
    path = corpus / entry.name
    image = read_image(path, max_pixels=1e9)
    assert image.shape == (*image_size(path, max_pixels=1e9), 3)
    assert np.abs(image.astype(int) - entry.shows()).mean() <= entry.tolerance
    if entry.pillow_opens:
        np.testing.assert_array_equal(image, by_pillow(path))
    info = check_media(path)
    assert info == probe(path)
    assert (info.kind, info.frames) == ("video" if entry.frames > 1 else "image", entry.frames)
    assert (info.height, info.width, info.has_audio) == (*image.shape[:2], False)


@NAMED
def test_file_names_are_ignored(corpus: Path, tmp_path: Path, entry: Entry) -> None:
    for name in ("a", "a.mp4", "a.wav", "a.txt", "a.jpg", "a.heic"):
        other = Path(shutil.copy(corpus / entry.name, tmp_path / name))
        np.testing.assert_array_equal(
            read_image(other, max_pixels=1e9), read_image(corpus / entry.name, max_pixels=1e9)
        )
        with pytest.raises(MediaError, match="image, which has no video or audio track"):
            read_audio(other, sample_rate_hz=16_000, max_s=1)


@NAMED
def test_a_truncated_image_is_refused_or_has_all_pixels(corpus: Path, tmp_path: Path, entry: Entry) -> None:
    whole = (corpus / entry.name).read_bytes()
    frames = [frame for _, frame in frames_of_image(corpus / entry.name)]
    cut = tmp_path / entry.name
    for end in {*range(1, len(whole), len(whole) // 40 + 1), *range(len(whole) - 13, len(whole))}:
        cut.write_bytes(whole[:end])
        try:
            check_media(cut)
        except MediaError:
            continue
        for left, right in zip(frames_of_image(cut), frames, strict=True):
            np.testing.assert_array_equal(left[1], right)


@pytest.mark.parametrize(
    "name", ["photo.jpg", "prog.JPG", "plain.png", "animated.gif", "photo.webp", "lzw.tiff"]
)
def test_an_image_without_its_last_rows_is_incomplete(corpus: Path, tmp_path: Path, name: str) -> None:
    whole = (corpus / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * 0.7)])
    with pytest.raises(MediaError, match="incomplete"):
        check_media(tmp_path / name)
    with pytest.raises(MediaError, match="incomplete"):
        load_image(tmp_path / name, MediaRecipe(frame_size=16))


@pytest.mark.parametrize("entry", ANIMATIONS, ids=lambda entry: entry.name)
def test_an_animation_is_a_video_and_its_first_frame_an_image(corpus: Path, entry: Entry) -> None:
    path = corpus / entry.name
    media = MediaRecipe(frame_size=32, frames_per_s=1 / FRAME_S, max_frames=8)
    video = load_video(path, media)
    assert video.audio is None
    assert video.frame_times_s == tuple(FRAME_S * (index + 0.5) for index in range(entry.frames))
    own_size = read_frames(path, [2.9 * FRAME_S, 0.0, 99.0], size=0, resize=lambda frame: frame)
    for frame, seed in zip(own_size, (2, 0, 3), strict=True):
        assert np.abs(frame.astype(int) - scene(seed)).mean() <= entry.tolerance
    assert np.abs(read_image(path, max_pixels=1e9).astype(int) - scene(0)).mean() <= entry.tolerance


def test_frames_without_a_delay_last_a_tenth_of_a_second(tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.fromarray(scene(seed)) for seed in range(3)]
    path = tmp_path / "fast.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=0)
    info = probe(path)
    assert info.duration_s == pytest.approx(0.3)
    assert info.fps == pytest.approx(10)


def test_the_documentation_lists_every_image() -> None:
    page = (Path(__file__).parents[2] / "docs" / "media.md").read_text(encoding="utf-8")
    assert [entry.name for entry in IMAGES if f"| `{entry.name}` | {entry.note} |" not in page] == []
    assert len(IMAGES) >= 25
