"""Still images and animations of the media corpus, in common formats, colour modes and orientations.

`IMAGES` lists the entries; each writes its file and has the upright scene that a reader must return.
`tests/unit/test_media_corpus_images.py` compares the result of `llava_av.media` with it and with Pillow.
`python -m tests.media_corpus_images` writes the table of docs/media.md.
"""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from tests.heif_writer import write_heic
from tests.media_writer import same_scheduling

Scene = npt.NDArray[np.uint8]
HEIGHT, WIDTH = 72, 112
FRAME_S = 0.25
ORIENTATION_TAG = 0x0112


def scene(seed: int = 0) -> Scene:
    """Return an image `[72, 112, 3]` with soft colours that differ between its sides."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    picture = np.stack([rows * 2 + 20, columns + 60, (rows + columns) // 2 + 40 * seed], axis=-1)
    picture[: HEIGHT // 3, : WIDTH // 3] = (230, 40 + 30 * seed, 60)
    return np.clip(picture, 0, 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the corpus."""

    name: str
    """File name."""
    note: str
    """Description of the special case, for the table."""
    make: Callable[[Path], Any]
    """Function that writes the file to a path."""
    shows: Callable[[], Scene] = scene
    """Expected upright image."""
    tolerance: float = 1.0
    """Largest mean difference from the expected image, in levels; larger for lossy formats and palettes."""
    frames: int = 1
    """Number of frames of an animation; each takes `FRAME_S`."""
    pillow_opens: bool = True
    """True if Pillow without plug-ins decodes the same pixels."""


def stored_as(orientation: int, picture: Scene | None = None) -> Image.Image:
    """Return the scene as stored by a camera that writes this EXIF orientation."""
    image = Image.fromarray(scene() if picture is None else picture)
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    return image if turned is None else image.transpose(turned)


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[ORIENTATION_TAG] = orientation
    return data


def _save(mode: str = "RGB", **options: Any) -> Callable[[Path], Any]:
    return lambda path: Image.fromarray(scene()).convert(mode).save(path, **options)


def _turned(orientation: int, **options: Any) -> Callable[[Path], Any]:
    return lambda path: stored_as(orientation).save(path, exif=exif(orientation), **options)


def _grey() -> Scene:
    return np.asarray(Image.fromarray(scene()).convert("L").convert("RGB"))


def _black_and_white() -> Scene:
    return np.asarray(Image.fromarray(scene()).convert("1").convert("RGB"))


def _deep_grey(path: Path, **options: Any) -> None:
    deep = _grey()[..., 0].astype(np.uint16) * 256 + 128
    Image.fromarray(deep).save(path, **options)


def _transparent(mode: str = "RGBA") -> Image.Image:
    image = Image.fromarray(scene())
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))))
    return image.convert(mode)


def _animated(**options: Any) -> Callable[[Path], Any]:
    frames = [Image.fromarray(scene(seed)) for seed in range(4)]
    extra = {"save_all": True, "append_images": frames[1:], "duration": round(FRAME_S * 1000), **options}
    return lambda path: frames[0].save(path, **extra)


def _by_ffmpeg(codec: str, pix_fmt: str, **options: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        container_format = {"libsvtav1": "avif"}.get(codec, "image2")
        with same_scheduling(), av.open(str(path), "w", format=container_format) as container:
            stream: Any = container.add_stream(codec, rate=1, options=options)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pix_fmt
            stream.codec_context.thread_count = 1
            frame = av.VideoFrame.from_ndarray(scene(), format="rgb24").reformat(format=pix_fmt)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return write


def _edited(make: Callable[[Path], Any], edit: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        make(path)
        path.write_bytes(edit(path.read_bytes()))

    return write


def _malformed_exif(path: Path) -> None:
    wrong = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03"
    Image.fromarray(scene()).save(path, quality=95, exif=wrong)


def _mpo(path: Path) -> None:
    frames = [Image.fromarray(scene(seed)) for seed in range(2)]
    frames[0].save(path, format="MPO", save_all=True, append_images=frames[1:], quality=95)


def _pages(path: Path) -> None:
    frames = [Image.fromarray(scene(seed)) for seed in range(2)]
    frames[0].save(path, format="TIFF", save_all=True, append_images=frames[1:])


def _heic(**turn: Any) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        stored = np.rot90(scene(), -turn.get("turns", 0))
        if turn.get("mirror") is not None:
            stored = stored[::-1] if turn["mirror"] == 0 else stored[:, ::-1]
        write_heic(path, np.ascontiguousarray(stored), **turn)

    return write


_LOSSY = {"tolerance": 3.0}
_JPEG = (
    Entry(name="photo.jpg", note="4:2:0", make=_save(quality=90), **_LOSSY),
    Entry(name="sharp.jpeg", note="4:4:4", make=_save(quality=95, subsampling=0), **_LOSSY),
    Entry(name="prog.JPG", note="progressive", make=_save(quality=90, progressive=True), **_LOSSY),
    Entry(name="grey.jpg", note="grey", make=_save("L", quality=95), shows=_grey, **_LOSSY),
    Entry(name="cmyk.jpg", note="CMYK", make=_save("CMYK", quality=95), **_LOSSY),
    Entry(
        name="restart.jpg", note="restart markers", make=_save(quality=90, restart_marker_rows=1), **_LOSSY
    ),
    Entry(name="phone.jpg", note="EXIF 6", make=_turned(6, quality=95), **_LOSSY),
    Entry(name="selfie.jpg", note="EXIF 5, mirrored", make=_turned(5, quality=95), **_LOSSY),
    Entry(name="mpo.jpg", note="MPO: the first image", make=_mpo, **_LOSSY),
    Entry(name="bad_exif.jpg", note="malformed EXIF", make=_malformed_exif, **_LOSSY),
    Entry(
        name="junk.jpg",
        note="bytes after its end",
        make=_edited(_save(quality=90), lambda data: data + b"junk" * 100),
        **_LOSSY,
    ),
    Entry(name="renamed.png", note="a JPEG by another name", make=_save(format="JPEG", quality=95), **_LOSSY),
)
_PNG = (
    Entry(name="plain.png", note="RGB", make=_save(), tolerance=0),
    Entry(
        name="alpha.png", note="alpha is dropped", make=lambda path: _transparent().save(path), tolerance=0
    ),
    Entry(name="palette.png", note="palette", make=_save("P"), tolerance=25),
    Entry(
        name="see_through.png",
        note="palette with alpha",
        make=lambda path: _transparent().quantize(64).save(path),
        tolerance=80,
    ),
    Entry(name="bits.png", note="1 bit", make=_save("1"), shows=_black_and_white, tolerance=0),
    Entry(
        name="grey_alpha.png",
        note="grey with alpha",
        make=lambda path: _transparent("LA").save(path),
        shows=_grey,
        tolerance=0,
    ),
    Entry(
        name="deep_grey.png",
        note="grey of 16 bits",
        make=_deep_grey,
        shows=_grey,
        tolerance=0,
        pillow_opens=False,
    ),
    Entry(name="deep.png", note="RGB of 16 bits", make=_by_ffmpeg("png", "rgb48be"), tolerance=1.5),
    Entry(name="interlaced.png", note="Adam7", make=_by_ffmpeg("png", "rgb24", flags="+ildct"), tolerance=0),
    Entry(name="turned.png", note="eXIf 8", make=_turned(8), tolerance=0),
    Entry(name="animated.png", note="APNG", make=_animated(), frames=4, tolerance=0),
    Entry(name="renamed.jpg", note="a PNG by another name", make=_save(format="PNG"), tolerance=0),
)
_OTHERS = (
    Entry(name="photo.webp", note="lossy", make=_save(quality=95), **_LOSSY),
    Entry(name="exact.webp", note="lossless", make=_save(lossless=True), tolerance=0),
    Entry(
        name="alpha.webp",
        note="alpha is dropped",
        make=lambda path: _transparent().save(path, lossless=True, exact=True),
        tolerance=0,
    ),
    Entry(name="turned.webp", note="EXIF 7, mirrored", make=_turned(7, lossless=True), tolerance=0),
    Entry(name="animated.webp", note="animated", make=_animated(lossless=True), frames=4, tolerance=0),
    Entry(name="still.gif", note="one frame", make=_save("P"), tolerance=25),
    Entry(name="interlaced.gif", note="interlaced", make=_save("P", interlace=1), tolerance=25),
    Entry(name="animated.gif", note="animated", make=_animated(), frames=4, tolerance=6),
    Entry(name="plain.bmp", note="24 bits", make=_save(), tolerance=0),
    Entry(name="palette.bmp", note="8 bits", make=_save("L"), shows=_grey, tolerance=0),
    Entry(name="plain.tif", note="uncompressed", make=_save(), tolerance=0),
    Entry(name="lzw.tiff", note="LZW", make=_save(compression="tiff_lzw"), tolerance=0),
    Entry(name="deflate.tif", note="Deflate", make=_save(compression="tiff_adobe_deflate"), tolerance=0),
    Entry(name="jpeg.tif", note="JPEG in TIFF", make=_save(compression="jpeg", quality=95), **_LOSSY),
    Entry(name="cmyk.tif", note="CMYK", make=_save("CMYK"), tolerance=1),
    Entry(name="fax.tif", note="CCITT G4", make=_save("1", compression="group4"), shows=_black_and_white),
    Entry(
        name="deep_grey.tif",
        note="grey of 16 bits",
        make=_deep_grey,
        shows=_grey,
        tolerance=0,
        pillow_opens=False,
    ),
    Entry(name="turned.tif", note="orientation 6", make=_turned(6), tolerance=0),
    Entry(name="pages.tif", note="two pages: the first", make=_pages, tolerance=0),
    Entry(name="plain.ppm", note="PPM", make=_save(), tolerance=0),
    Entry(name="plain.pgm", note="PGM", make=_save("L"), shows=_grey, tolerance=0),
    Entry(name="plain.jp2", note="lossless", make=_save(), tolerance=0),
    Entry(name="stream.j2k", note="codestream", make=_save(quality_mode="dB", quality_layers=[45]), **_LOSSY),
)
_CONTAINED = (
    Entry(name="photo.avif", note="4:2:0", make=_save(quality=90), **_LOSSY),
    Entry(name="sharp.avif", note="4:4:4", make=_save(quality=95, subsampling="4:4:4"), **_LOSSY),
    Entry(
        name="alpha.avif",
        note="alpha is dropped",
        make=lambda path: _transparent().save(path, quality=95),
        **_LOSSY,
    ),
    Entry(name="turned.avif", note="irot", make=_turned(6, quality=95), **_LOSSY),
    Entry(name="mirrored.avif", note="imir and irot", make=_turned(7, quality=95), **_LOSSY),
    Entry(name="deep.avif", note="10 bits", make=_by_ffmpeg("libsvtav1", "yuv420p10le", crf="10"), **_LOSSY),
    Entry(name="animated.avif", note="animated", make=_animated(quality=90), frames=4, **_LOSSY),
    Entry(name="plain.heic", note="one item", make=_heic(), pillow_opens=False, **_LOSSY),
    Entry(name="tiles.heic", note="grid of tiles", make=_heic(tile=64), pillow_opens=False, **_LOSSY),
    Entry(
        name="phone.heic",
        note="grid of tiles, irot",
        make=_heic(tile=64, turns=3),
        pillow_opens=False,
        **_LOSSY,
    ),
    Entry(name="mirrored.heic", note="imir", make=_heic(mirror=1), pillow_opens=False, **_LOSSY),
    Entry(
        name="upside.heif",
        note="imir, brand mif1",
        make=_heic(mirror=0, brand=b"mif1"),
        pillow_opens=False,
        **_LOSSY,
    ),
    Entry(name="named.mp4", note="a HEIC by another name", make=_heic(tile=64), pillow_opens=False, **_LOSSY),
)
IMAGES: tuple[Entry, ...] = (*_JPEG, *_PNG, *_OTHERS, *_CONTAINED)
"""Every image of the corpus."""


def by_pillow(path: Path) -> Scene:
    """Decode the file with Pillow, upright."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def table() -> str:
    """Return the table of docs/media.md."""
    from llava_av.media.image import read_image

    rows = ["| file | special | mean difference from the scene | from Pillow |", "| --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        for entry in IMAGES:
            path = Path(folder) / entry.name
            entry.make(path)
            image = read_image(path, max_pixels=1e9).astype(int)
            difference = abs(image - entry.shows()).mean()
            pillow = abs(image - by_pillow(path)).max() if entry.pillow_opens else "–"
            rows.append(f"| `{entry.name}` | {entry.note} | {difference:.2f} | {pillow} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
