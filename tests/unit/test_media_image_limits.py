"""Images that all readers reject by their headers, and EXIF data with any content."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from llava_av.datasets.loading import load_image
from llava_av.datasets.sources.folder import read_folder
from llava_av.media.check import check_media
from llava_av.media.decode import MediaError, probe, read_frames
from llava_av.media.image import image_size, read_image
from llava_av.recipe import MediaRecipe
from tests.media_corpus_images import scene, stored_as

READERS: tuple[Callable[[Path], object], ...] = (
    check_media,
    probe,
    lambda path: image_size(path, max_pixels=100),
    lambda path: read_image(path, side=16),
    lambda path: read_frames(path, [0.0], size=16),
    lambda path: load_image(path, MediaRecipe(frame_size=16)),
)


def reasons(path: Path) -> set[str]:
    found = set()
    for read in READERS:
        with pytest.raises(MediaError) as caught:
            read(path)
        found.add(caught.value.reason)
    return found


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int) -> bytes:
    """Return a complete PNG of one bit per pixel."""
    packer = zlib.compressobj(9)
    row = bytes(1 + -(-width // 8))
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gif(width: int, height: int, frames: int = 1) -> bytes:
    block = struct.pack("<BHHHHB", 0x2C, 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return header + block * frames + b";"


def bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)
    )


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (png(16_000, 16_000), "16000x16000"),
        (png(100_000, 8), "100000x8"),
        (gif(60_000, 60_000), "60000x60000"),
        (gif(4_000, 4_000, frames=200), "4000x4000 pixels in 200 frames"),
        (bmp(30_000, 30_000), "30000x30000"),
        (b"P6 40000 40000 255\n", "40000x40000"),
    ],
)
def test_too_large_an_image_is_refused_from_its_header_by_every_reader(
    tmp_path: Path, content: bytes, size: str
) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(content)
    assert len(content) < 40_000
    [reason] = reasons(path)
    assert size in reason
    assert "more than the limit of" in reason


def test_an_animation_of_countless_small_frames_is_refused(tmp_path: Path) -> None:
    frame = b"\x2c" + bytes(4) + b"\1\0\1\0\0" + b"\2\2\x44\1\0"
    head = b"GIF89a" + b"\2\0\2\0\x80\0\0" + b"\0\0\0\xff\xff\xff"
    (tmp_path / "many").write_bytes(head + frame * 70_000 + b";")
    [reason] = reasons(tmp_path / "many")
    assert "2x2 pixels in 70000 frames, more than the limit of 65536 frames" in reason


def test_an_image_below_the_limit_is_read_whatever_limit_another_library_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.png").write_bytes(png(3_000, 2_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2**20)
    assert read_image(tmp_path / "large.png", side=16).shape == (16, 16, 3)


def test_extreme_shapes_are_resized(tmp_path: Path) -> None:
    for width, height in ((1, 60_000), (60_000, 1), (60_000, 3)):
        path = tmp_path / f"{width}.png"
        Image.new("RGB", (width, height), (10, 200, 30)).save(path)
        for side in (14, 32, 224, 384):
            assert np.abs(read_image(path, side=side).astype(int) - (10, 200, 30)).max() <= 1
            assert np.abs(read_frames(path, [0.0], size=side).astype(int) - (10, 200, 30)).max() <= 1


@settings(max_examples=60)
@given(exif=st.binary(max_size=120), kind=st.sampled_from(["jpeg", "png", "webp"]))
def test_no_exif_data_is_an_error(tmp_path_factory: pytest.TempPathFactory, exif: bytes, kind: str) -> None:
    path = tmp_path_factory.mktemp("exif") / "a"
    picture = Image.fromarray(scene())
    picture.save(path, format=kind, exif=b"Exif\0\0" + exif)
    image = read_image(path, max_pixels=1e9)
    assert sorted(image.shape) == sorted(scene().shape)
    assert check_media(path).kind == "image"


def test_the_preview_of_a_raw_file_does_not_replace_the_image(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    Image.fromarray(scene()).save(tmp_path / "a.nef", format="TIFF", tiffinfo=tags)
    [reason] = reasons(tmp_path / "a.nef")
    assert "raw file" in reason


def test_a_commit_takes_what_training_reads_and_quarantines_the_rest(tmp_path: Path) -> None:
    photo = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)).save(photo, "JPEG")
    frames = [Image.fromarray(scene(seed)) for seed in range(3)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], duration=200)
    stored_as(1).save(tmp_path / "still.gif")
    (tmp_path / "photo.jpg").write_bytes(photo.getvalue())
    (tmp_path / "cut.jpg").write_bytes(photo.getvalue()[:3000])
    (tmp_path / "bomb.png").write_bytes(png(16_000, 16_000))
    uses = [
        ("photo.jpg", "image"),
        ("moving.webp", "image"),
        ("moving.webp", "video"),
        ("still.gif", "video"),
    ]
    uses += [("cut.jpg", "image"), ("bomb.png", "image")]
    lines = [
        f'{{"id": "{number}", "{role}": "{name}", "conversations": [{{"from": "human", "value": "?"}}, '
        '{"from": "gpt", "value": "!"}]}'
        for number, (name, role) in enumerate(uses)
    ]
    (tmp_path / "conversations.jsonl").write_text("\n".join(lines))
    scan = read_folder(tmp_path)
    assert len(photo.getvalue()) > 2048
    assert [sample.id for sample in scan.samples] == ["0", "1", "2"]
    why = {bad.file: bad.reason for bad in scan.quarantined}
    assert 'is a still image, but is named under "video"' in why["still.gif"]
    assert "incomplete" in why["cut.jpg"]
    assert "16000x16000" in why["bomb.png"]
