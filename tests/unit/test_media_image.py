"""Still images: upright for any EXIF orientation, with the size in their headers."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from llava_av.media.check import check_headers, check_media
from llava_av.media.container import MediaError
from llava_av.media.image import image_size, read_image
from llava_av.media.image_frames import frames_of_image
from tests.media_samples import write_grey_clip

CORNERS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))
FORMATS = ("jpeg", "png", "webp", "tiff")


def four_colours(height: int = 48, width: int = 80) -> Image.Image:
    """Return an image with a colour in each quarter, by which its orientation is recognized."""
    picture = np.zeros((height, width, 3), np.uint8)
    rows, columns = (
        (slice(0, height // 2), slice(height // 2, None)),
        (slice(0, width // 2), slice(width // 2, None)),
    )
    for place, colour in enumerate(CORNERS):
        picture[rows[place // 2], columns[place % 2]] = colour
    return Image.fromarray(picture)


def write(path: Path, picture: Image.Image, orientation: int | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    picture.save(path, exif=exif, quality=95)
    return path


def quarters(picture: np.ndarray) -> list[tuple[int, ...]]:
    height, width = picture.shape[:2]
    middles = [(y * height // 4, x * width // 4) for y in (1, 3) for x in (1, 3)]
    return [tuple(255 * (picture[middle] > 127)) for middle in middles]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_orientation_is_upright_and_of_the_size_that_its_headers_promise(
    tmp_path: Path, kind: str
) -> None:
    for orientation in (None, *range(1, 9)):
        path = write(tmp_path / f"{orientation}.{kind}", four_colours(), orientation)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        picture = read_image(path, max_pixels=10**6)
        assert picture.shape == expected.shape
        assert picture.shape[:2] == image_size(path, max_pixels=10**6)
        assert quarters(picture) == quarters(expected) == quarters(read_image(path, side=32))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def turning_chunk(form: str) -> bytes:
    """Return a PNG chunk that states orientation 6, which exchanges height and width."""
    exif = Image.Exif()
    exif[0x0112] = 6
    if form == "eXIf":
        return chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    if form == "XMP":
        xmp = b'<rdf:Description tiff:Orientation="6"/>'
        return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    raw = exif.tobytes()
    return chunk(b"tEXt", b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(raw), raw.hex().encode()))


@pytest.mark.parametrize("form", ["eXIf", "XMP", "raw profile"])
def test_an_orientation_after_the_pixels_of_a_png_is_found(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "a.png", four_colours())
    content, end = path.read_bytes(), chunk(b"IEND", b"")
    note = chunk(b"tEXt", b"date:create\0today")
    path.write_bytes(content.removesuffix(end) + note + turning_chunk(form) + end)
    assert image_size(path, max_pixels=10**6) == (80, 48)
    assert read_image(path, max_pixels=10**6).shape == (80, 48, 3)
    assert (check_headers(path).width, check_headers(path).height) == (48, 80)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff", "ppm", "gif", "webp", "jp2"])
def test_an_image_whose_content_is_given_is_not_read_from_its_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    grey = Image.new("L", (24, 16), 200)
    grey.save(path)
    content, read = path.read_bytes(), np.asarray(read_image(path, max_pixels=10**6))
    Image.new("L", (24, 16), 10).save(path)
    assert check_media(path, content) == check_headers(path, content)
    assert [frame.tolist() for _, frame in frames_of_image(path, content)] == [read.tolist()]
    path.unlink()
    assert check_media(path, content).width == 24


def test_the_size_of_a_png_is_read_without_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.png", four_colours())
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("the image is decoded"))
    assert image_size(path, max_pixels=10**6) == (48, 80)
    assert check_headers(path).width == 80


@settings(max_examples=25)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    max_pixels=st.integers(1, 9000),
    orientation=st.integers(1, 8),
)
def test_a_large_image_keeps_its_shape_and_only_it_is_scaled(
    tmp_path_factory, height: int, width: int, max_pixels: int, orientation: int
) -> None:
    path = write(tmp_path_factory.mktemp("image") / "a.png", four_colours(height, width), orientation)
    own = (width, height) if orientation > 4 else (height, width)
    size = image_size(path, max_pixels=max_pixels)
    assert read_image(path, max_pixels=max_pixels).shape == (*size, 3)
    if height * width <= max_pixels:
        assert size == own
    else:
        scale = (max_pixels / (height * width)) ** 0.5
        assert all(abs(side - whole * scale) <= 1 for side, whole in zip(size, own, strict=True))


def test_the_first_frame_of_a_video_and_files_without_one(tmp_path: Path) -> None:
    clip = write_grey_clip(tmp_path / "clip.mp4")
    assert read_image(clip, max_pixels=10**6).shape == (64, 64, 3)
    assert read_image(clip, side=16).shape == (16, 16, 3)
    (tmp_path / "note.txt").write_text("no picture at all, only text")
    with pytest.raises(MediaError, match=r"note\.txt: is not a readable media file"):
        read_image(tmp_path / "note.txt", max_pixels=10**6)
    with pytest.raises(ValueError, match="exactly one of side and max_pixels, not 8 and 8"):
        read_image(clip, side=8, max_pixels=8)
