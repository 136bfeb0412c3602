"""Every file the same way to pixels: upright, opaque, of whatever format Pillow decodes by itself, however large."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from engine.control import RunControl
from engine.data import decoding, formats
from engine.data.cache import decoded
from engine.data.decoding import BACKGROUND, decode, read_header
from engine.data.depth import PixelRange
from engine.data.formats import FORMATS, is_another_kind
from engine.data.images import ImageData
from engine.data.loading import load_dataset
from engine.environment import check_environment
from engine.errors import SpecError
from engine.paths import Folders
from engine.spec import RunSpec
from tests.engine.deep_files import png16, tiff
from tests.fakes import drain

HEIC_WITHOUT = "HEIC (uv sync --extra heic installs what reads it)"

Array = NDArray[Any]
DRAWS = np.random.default_rng(0)
PHOTO = np.add.outer(np.arange(40) * 5, np.arange(60) * 1)[..., None] // np.array([1, 2, 3])  # smooth, no symmetry
UPRIGHT = PHOTO.astype(np.uint8)
TURNED = {  # what a camera stores, by the EXIF specification: where its row 0 and column 0 lie in the upright picture
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image.transpose(1, 0, 2)[::-1],
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image.transpose(1, 0, 2)[:, ::-1],
}


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def found(data: bytes, size: int | None = None, channels: int = 3) -> Array:
    pixels = decode(data, size, channels)
    assert not isinstance(pixels, str), pixels
    return pixels.transpose(1, 2, 0)


def stored(tag: int, format: str, image: Array = UPRIGHT, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    return encoded(Image.fromarray(np.ascontiguousarray(TURNED[tag](image))), format, exif=exif, **options)


LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "TIFF packed": {"compression": "tiff_lzw"},
}  # fmt: skip


@pytest.mark.parametrize("tag", TURNED)
@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("size", [None, 24])
def test_a_picture_is_upright_whatever_the_camera_held(tag: int, format: str, size: int | None) -> None:
    data = stored(tag, format.split()[0], **LOSSLESS[format])
    header = read_header(data)
    assert header is not None
    assert header.size == (60, 40)
    upright = found(encoded(Image.fromarray(UPRIGHT), "PNG"), size)
    assert np.array_equal(found(data, size), upright)


@pytest.mark.parametrize("tag", TURNED)
@pytest.mark.parametrize(("format", "size"), [("JPEG", None), ("JPEG", 60), ("AVIF", 60)])
def test_a_jpeg_is_upright_at_an_eighth_too(tag: int, format: str, size: int | None) -> None:
    large = np.kron(UPRIGHT, np.ones((12, 12, 1), np.uint8))
    data = stored(tag, format, large, quality=95)
    header = read_header(data)
    assert header is not None
    assert header.size == (720, 480)
    difference = found(data, size).astype(int) - found(encoded(Image.fromarray(large), "PNG"), size)
    assert np.abs(difference).mean() < 3
    assert np.abs(difference).max() < 40


@pytest.mark.parametrize("tag", [0, 9, 300])
def test_an_orientation_that_there_is_not_turns_nothing(tag: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    assert np.array_equal(found(encoded(Image.fromarray(UPRIGHT), "PNG", exif=exif)), UPRIGHT)


def test_broken_metadata_do_not_make_a_picture_unusable() -> None:
    data = encoded(Image.fromarray(UPRIGHT), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(found(data), UPRIGHT)


@pytest.mark.parametrize("tag", TURNED)
def test_16_bits_are_upright_too(tag: int) -> None:
    deep = UPRIGHT.astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = tag
    samples = TURNED[tag](deep)
    data = png16(samples, [(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))])
    pixels = decode(data, None, 3, PixelRange(integers=65535))
    assert not isinstance(pixels, str), pixels
    assert np.array_equal(pixels.transpose(1, 2, 0), UPRIGHT)


# --- transparency ----------------------------------------------------------------------------------------------------

SHAPE = np.zeros((16, 16), bool)
SHAPE[4:12, 3:9] = True
DRAWN, HIDDEN = np.array([200, 30, 90], np.uint8), np.array([0, 255, 17], np.uint8)


def rgba(hidden: int) -> Image.Image:
    """A drawing with other colours where nobody sees them."""
    colour = np.where(SHAPE[..., None], DRAWN, np.roll(HIDDEN, hidden))
    return Image.fromarray(np.dstack([colour, np.where(SHAPE, 255, 0)]).astype(np.uint8))


def with_key(hidden: int) -> bytes:
    """RGB of which one colour is declared transparent."""
    colours = np.where(SHAPE[..., None], DRAWN, np.roll(HIDDEN, hidden)).astype(np.uint8)
    return encoded(Image.fromarray(colours), "PNG", transparency=tuple(map(int, np.roll(HIDDEN, hidden))))


def palette(hidden: int, format: str, key: Any) -> bytes:
    image = Image.fromarray(SHAPE.astype(np.uint8))
    image.putpalette([*map(int, np.roll(HIDDEN, hidden)), *map(int, DRAWN)])
    return encoded(image, format, transparency=key)


def grey_with_key(hidden: int, bits: int) -> bytes:
    """Grey of 2, 4 or 8 bits a pixel, written by hand: Pillow writes 8 alone."""
    import zlib

    most = 2**bits - 1
    values = np.where(SHAPE, most, hidden)
    packed = [
        b"\0" + int("".join(f"{value:0{bits}b}" for value in row), 2).to_bytes(len(row) * bits // 8) for row in values
    ]
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 16, 16, bits, 0, 0, 0, 0)), (b"tRNS", struct.pack(">H", hidden)),
        (b"IDAT", zlib.compress(b"".join(packed))), (b"IEND", b""),
    ]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def deep_rgba(hidden: int) -> bytes:
    samples = np.asarray(rgba(hidden)).astype(np.uint16) * 257
    return png16(samples)


KINDS = {
    "RGBA png": lambda hidden: encoded(rgba(hidden), "PNG"),
    "RGBA tiff": lambda hidden: encoded(rgba(hidden), "TIFF"),
    "RGBA webp": lambda hidden: encoded(rgba(hidden), "WEBP", lossless=True, exact=True),
    "RGBA tga": lambda hidden: encoded(rgba(hidden), "TGA"),
    "RGBA ico": lambda hidden: encoded(rgba(hidden), "ICO", sizes=[(16, 16)]),
    "RGBA qoi": lambda hidden: encoded(rgba(hidden), "QOI"),
    "LA png": lambda hidden: encoded(rgba(hidden).convert("LA"), "PNG"),
    "LA tiff": lambda hidden: encoded(rgba(hidden).convert("LA"), "TIFF"),
    "PA tiff": lambda hidden: pa_tiff(hidden),
    "P png, one index": lambda hidden: palette(hidden, "PNG", 0),
    "P png, a list": lambda hidden: palette(hidden, "PNG", b"\0\xff"),
    "P gif": lambda hidden: palette(hidden, "GIF", 0),
    "RGB png, one colour": with_key,
    "L png, one grey": lambda hidden: grey_with_key(hidden, 8),
    "L png of 4 bits": lambda hidden: grey_with_key(hidden, 4),
    "L png of 2 bits": lambda hidden: grey_with_key(hidden, 2),
    "RGBA png of 16 bits": deep_rgba,
}


def pa_tiff(hidden: int) -> bytes:
    image = Image.fromarray(SHAPE.astype(np.uint8))
    image.putpalette([*map(int, np.roll(HIDDEN, hidden)), *map(int, DRAWN)])
    image = image.convert("PA")
    image.putalpha(Image.fromarray(np.where(SHAPE, 255, 0).astype(np.uint8)))
    assert image.mode == "PA"
    return encoded(image, "TIFF")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_that_is_fully_transparent_decides_nothing(kind: str, channels: int) -> None:
    pixels = []
    for hidden in (0, 1):
        data = KINDS[kind](hidden)
        one = decode(data, None, channels, PixelRange(integers=65535))
        assert not isinstance(one, str), one
        pixels.append(one)
    assert np.array_equal(pixels[0], pixels[1])
    assert (pixels[0][:, ~SHAPE] == BACKGROUND[0]).all()
    assert (pixels[0][:, SHAPE] != BACKGROUND[0]).any()
    first, second = (decode(KINDS[kind](hidden), 8, channels, PixelRange(65535)) for hidden in (0, 1))
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    assert np.array_equal(first, second)


def test_half_transparent_colour_is_mixed_with_the_background() -> None:
    data = encoded(Image.new("RGBA", (4, 4), (255, 0, 128, 128)), "PNG")
    assert np.abs(found(data)[0, 0].astype(int) - (192, 64, 128)).max() <= 1


def test_a_tga_that_says_its_last_8_bits_mean_nothing_is_opaque() -> None:
    data = bytearray(encoded(Image.new("RGBA", (4, 4), (9, 8, 7, 0)), "TGA"))
    data[17] &= 0xF0
    assert (found(bytes(data)) == (9, 8, 7)).all()


def test_an_opaque_alpha_changes_no_pixel() -> None:
    image = Image.fromarray(UPRIGHT)
    image.putalpha(255)
    assert np.array_equal(found(encoded(image, "PNG")), UPRIGHT)


# --- formats ---------------------------------------------------------------------------------------------------------

WRITABLE = [
    ("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("BMP", "bmp"), ("DIB", "dib"), ("WEBP", "webp"), ("TIFF", "tif"),
    ("PPM", "ppm"), ("AVIF", "avif"), ("JPEG2000", "jp2"), ("ICO", "ico"), ("ICNS", "icns"), ("PCX", "pcx"),
    ("QOI", "qoi"), ("SGI", "sgi"), ("DDS", "dds"), ("TGA", "tga"), ("BLP", "blp"),
]  # fmt: skip


@pytest.mark.parametrize(("format", "ending"), WRITABLE)
def test_every_format_that_pillow_decodes_by_itself_is_read(format: str, ending: str, tmp_path: Path) -> None:
    assert format in FORMATS
    image = Image.fromarray(np.kron(UPRIGHT[:32, :32], np.ones((2, 2, 1), np.uint8)))
    image = image.convert("P") if format == "BLP" else image
    path = tmp_path / f"x.{ending}"
    image.save(path, format)
    for name in (path, path.with_suffix(".dat")):  # by its content, whatever it is called
        name.write_bytes(path.read_bytes())
        assert read_header(name) is not None
    pixels = decode(path.read_bytes(), 16, 3)
    assert not isinstance(pixels, str), pixels
    expected = found(encoded(Image.fromarray(np.asarray(image.convert("RGB"))), "PNG"), 16).transpose(2, 0, 1)
    assert np.abs(pixels.astype(int) - expected).mean() < 6


@pytest.mark.parametrize(
    "data",
    [b"P1 4 4\n" + b"0 1 " * 8, b"P2 4 4 255\n" + b"9 8 " * 8, b"P3 4 4 255\n" + b"9 8 7 " * 16, b"P4 8 4\n\1\2\3\4"],
)
def test_portable_anymaps_of_all_kinds_are_read(data: bytes) -> None:
    assert not isinstance(decode(data, 4, 3), str)


def test_a_folder_of_traffic_signs_as_ppm_is_a_dataset(tmp_path: Path, folders: Folders) -> None:
    for label in range(3):
        (tmp_path / "signs" / f"{label:05}").mkdir(parents=True)
        for number in range(6):
            tones = DRAWS.integers(0, 256, (30 + number, 32, 3), np.uint8)
            Image.fromarray(tones).save(tmp_path / "signs" / f"{label:05}" / f"{number:05}.ppm")
        (tmp_path / "signs" / f"{label:05}" / f"GT-{label:05}.csv").write_text("Filename;Width\n")
    spec = RunSpec(f"folder:{tmp_path / 'signs'}", "resnet20", image_size=32)
    data: ImageData = drain(load_dataset(spec, folders, RunControl()))[1]
    assert len(data.train) + len(data.test) == 18
    assert {record.problem for record in data.manifest if record.split == "unusable"} == {"no image"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "EPS, a drawing, which is not read"),
        (b"%PDF-1.7\n", "PDF, a drawing, which is not read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG, a drawing, which is not read"),
        (b"\xd7\xcd\xc6\x9a" + bytes(100), "WMF, a drawing, which is not read"),
        (b"SIMPLE  =                    T" + b" " * 50 + b"END", "FITS, which is not read"),
        (b"#define x_width 8\n#define x_height 8\nstatic char x_bits[] = {0,0,0,0,0,0,0,0};", "no image"),
        (b"\xd0\xcf\x11\xe0" + bytes(600), "no image"),
    ],
)
def test_what_is_drawn_or_needs_another_program_is_not_read(data: bytes, says: str) -> None:
    assert decode(data, 8, 3) == says
    assert is_another_kind(says)
    assert read_header(data) is None


@pytest.mark.parametrize(("format", "library"), [("AVIF", "avif"), ("JPEG2000", "jpg_2000"), ("WEBP", "webp")])
def test_a_pillow_without_a_library_says_so(format: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(UPRIGHT), format)
    has = features.check
    monkeypatch.setattr(features, "check", lambda name: name != library and has(name))
    assert decode(data, 8, 3) == f"{format}, for which this Pillow lacks its library ({library})"


# --- large images ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(decoding, "MAX_LARGE_PIXELS", 40_000)


@pytest.mark.usefixtures("small_bounds")
def test_a_large_jpeg_is_decoded_at_a_part_of_its_size() -> None:
    panorama = encoded(Image.new("RGB", (1600, 400), (10, 200, 90)), "JPEG")  # 640,000 pixels
    assert np.abs(found(panorama, 50).astype(int) - (10, 200, 90)).max() < 4
    assert (
        decode(panorama, 300, 3) == "larger than 40,000 pixels (RESLAB_MAX_PIXELS raises this bound)"
    )  # as much is left at that size
    assert decode(panorama, None, 3) == "larger than 10,000 pixels (RESLAB_MAX_PIXELS raises this bound)"


@pytest.mark.usefixtures("small_bounds")
def test_other_large_images_are_decoded_alone_and_up_to_a_bound() -> None:
    assert found(encoded(Image.new("RGB", (300, 100), "red"), "PNG"), 8).shape == (8, 8, 3)
    larger = encoded(Image.new("RGB", (300, 200), "red"), "PNG")
    assert decode(larger, 8, 3) == "larger than 40,000 pixels (RESLAB_MAX_PIXELS raises this bound)"


@pytest.mark.usefixtures("small_bounds")
def test_the_bound_can_be_moved_and_images_are_then_decoded_anew(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png", "b/scan.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        size = (300, 200) if "scan" in name else (20, 20)
        (tmp_path / "set" / name).write_bytes(
            encoded(Image.new("RGB", size, f"#{name[2]}00" if size[0] < 99 else "red"), "PNG")
        )
    spec = RunSpec(f"folder:{tmp_path / 'set'}", "resnet20", image_size=8)

    def problems() -> set[str | None]:
        data: ImageData = drain(load_dataset(spec, folders, RunControl()))[1]
        return {record.problem for record in data.manifest}

    assert problems() == {None, "larger than 40,000 pixels (RESLAB_MAX_PIXELS raises this bound)"}
    monkeypatch.setenv("RESLAB_MAX_PIXELS", "60000")
    assert problems() == {None}
    monkeypatch.setenv("RESLAB_MAX_PIXELS", "1000")
    assert problems() == {None, "larger than 1,000 pixels (RESLAB_MAX_PIXELS raises this bound)"}
    monkeypatch.setenv("RESLAB_MAX_PIXELS", "many")
    with pytest.raises(SpecError, match="RESLAB_MAX_PIXELS: 'many' is not valid; expected a whole number from 1"):
        check_environment()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "WEBP", "AVIF", "BMP", "GIF", "JPEG"])
def test_an_image_of_one_pixel_is_an_image(format: str) -> None:
    assert (
        np.abs(found(encoded(Image.new("RGB", (1, 1), (200, 100, 50)), format), 8).astype(int) - (200, 100, 50)).max()
        < 9
    )
    assert found(encoded(Image.new("RGB", (1, 40), (200, 100, 50)), format), 8).shape == (8, 8, 3)


def test_a_heic_image_is_read_where_pillow_heif_is_and_otherwise_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("pillow_heif")
    pixels = np.kron(np.array([[0, 255], [128, 128]], np.uint8), np.ones((32, 48), np.uint8))
    picture = Image.fromarray(pixels).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    file = io.BytesIO()
    library.from_pillow(picture).save(file, quality=95, exif=exif.tobytes())
    turned = np.asarray(picture.transpose(Image.Transpose.ROTATE_270))
    assert np.abs(found(file.getvalue(), None).astype(int) - turned).max() < 12
    header = read_header(file.getvalue())
    assert header is not None
    assert header.size == (64, 96)
    damaged = decode(file.getvalue()[:300], 8, 3)
    assert isinstance(damaged, str)
    assert damaged.startswith("damaged")
    monkeypatch.setattr(formats, "reads_heic", lambda: False)
    assert decode(file.getvalue(), 8, 3) == HEIC_WITHOUT


def test_a_heic_image_is_named_without_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "reads_heic", lambda: False)
    assert decode(b"\0\0\0\x18ftypheic" + bytes(64), 8, 3) == HEIC_WITHOUT
    assert decode(b"\0\0\0\x18ftypmif1" + bytes(64), 8, 3) == HEIC_WITHOUT


@pytest.mark.usefixtures("small_bounds")
def test_where_memory_is_short_a_large_image_is_left_out_for_now(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "panorama.png"
    path.write_bytes(encoded(Image.new("RGB", (300, 100), "red"), "PNG"))
    small = tmp_path / "small.png"
    small.write_bytes(encoded(Image.new("RGB", (30, 10), "red"), "PNG"))

    def again() -> list[str | None]:
        _, kept = drain(decoded([small, path], "x", 8, 3, folders.cache, RunControl()))
        return [fact.problem for fact in kept.facts]

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "container_headroom", lambda: 300_000)
        problems = again()
        assert problems[0] is None
        assert problems[1] == "too little memory: 30,000 pixels take 0.2 MiB, 0.3 MiB are free"
    assert again() == [None, None]  # what is kept of that time is not believed


def test_a_file_that_declares_a_billion_pixels_is_not_decoded() -> None:
    data = bytearray(encoded(Image.new("L", (8, 8)), "BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    assert decode(bytes(data), 8, 1) == "larger than 1,073,741,824 pixels"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(20_000, 5_000), (20_000, 10_000)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_panoramas_of_100_and_200_megapixels_are_read(width: int, height: int, format: str) -> None:
    of_format: dict[str, dict[str, Any]] = {"PNG": {"compress_level": 1}, "TIFF": {"compression": "tiff_lzw"}}
    options = of_format.get(format, {})
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    data = encoded(image, format, **options)
    del image
    pixels = found(data, 224)
    assert pixels.shape == (224, 224, 3)
    assert abs(int(pixels[112, 112, 0]) - 128) < 4


def test_files_of_another_size_than_the_first_are_left_out_where_none_is_given(
    tmp_path: Path, folders: Folders
) -> None:
    paths = []
    for number, size in enumerate([(8, 6), (8, 6), (6, 8)]):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", size).save(paths[-1])
    _, kept = drain(decoded(paths, "x", None, 3, folders.cache, RunControl()))
    assert kept.facts[2].problem == "6×8 pixels, the others have 8×6; choose an image size"
    assert kept.images.shape == (2, 3, 6, 8)


def test_a_tiff_that_is_upright_by_pillow_is_not_turned_twice() -> None:
    samples = (np.arange(24).reshape(4, 6, 1) * 2000).astype(np.uint16)
    image = Image.open(io.BytesIO(tiff(samples)))
    data = encoded(image, "TIFF", tiffinfo={274: 6})
    pixels = decode(data, None, 1, PixelRange(integers=65535))
    assert not isinstance(pixels, str), pixels
    assert pixels.shape == (1, 6, 4)
