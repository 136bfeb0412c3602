"""Images of more than 8 bits a sample: one range for a dataset, recorded with the run, or left out with a reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine.control import RunControl
from engine.data.decoding import decode, read_header
from engine.data.depth import Extreme, PixelRange, choose_range
from engine.data.images import ImageData
from engine.data.loading import load_dataset
from engine.events import Evaluated, RunStarted, to_json_dict
from engine.lab import Lab
from engine.paths import Folders
from engine.spec import RunSpec
from tests.engine.deep_files import png16, scaled, tiff
from tests.fakes import drain

Array = NDArray[Any]
Write = Callable[[Array], bytes]
DRAWS = np.random.default_rng(0)


def by_pillow(samples: Array, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples[..., 0]).save(file, format, **options)
    return file.getvalue()


def folder_of(root: Path, files: list[bytes], ending: str) -> str:
    """Two classes of the same files; the second one's are no duplicates, for a byte follows each."""
    for name, more in (("a", b""), ("b", b"\0")):
        (root / name).mkdir(parents=True)
        for number, data in enumerate(files):
            (root / name / f"{number:02}.{ending}").write_bytes(data + more)
    return f"folder:{root}"


def load(folders: Folders, dataset: str, **settings: Any) -> ImageData:
    spec = RunSpec(dataset, "resnet20", **settings)
    data: ImageData = drain(load_dataset(spec, folders, RunControl()))[1]
    return data


def pixels_of(data: ImageData) -> dict[str, Array]:
    """Every usable file's pixels, by its name in the manifest."""
    found: dict[str, Array] = {}
    for split, side in (("train", data.train), ("test", data.test)):
        names = [record.file for record in data.manifest if record.split == split]
        images = np.concatenate([chunk.numpy() for chunk in side.chunks(64)])
        found.update(zip(names, images, strict=True))
    return found


GREY: dict[str, tuple[Callable[[Array], bytes], Any]] = {
    "png 16": (png16, np.uint16),
    "tiff 16, little end first": (lambda samples: tiff(samples, "<"), np.uint16),
    "tiff 16, big end first": (lambda samples: tiff(samples, ">"), np.uint16),
    "tiff 16, packed": (lambda samples: tiff(samples, ">", deflate=True), np.uint16),
    "tiff signed 16": (lambda samples: tiff(samples), np.int16),
    "tiff signed 32": (lambda samples: tiff(samples), np.int32),
    "tiff unsigned 32": (lambda samples: tiff(samples), np.uint32),
}


@pytest.mark.parametrize("name", GREY)
@pytest.mark.parametrize(("greatest", "high"), [(200, 255), (1000, 1023), (4000, 4095), (16000, 16383), (32000, 65535)])
def test_integers_are_scaled_by_the_bits_that_the_whole_dataset_uses(
    name: str, greatest: int, high: int, tmp_path: Path, folders: Folders
) -> None:
    write, dtype = GREY[name]
    arrays = [DRAWS.integers(0, greatest // (1 + number), (9, 7, 1)).astype(dtype) for number in range(4)]
    arrays[2][4, 3] = greatest  # one pixel of one file decides for all
    data = load(folders, folder_of(tmp_path / "d", [write(array) for array in arrays], "tif"), test_share=0.5)
    assert data.pixel_range == PixelRange(integers=high)
    for file, found in pixels_of(data).items():
        assert (found[0] == scaled(arrays[int(file[2:4])][..., 0], 0, high)).all()


@pytest.mark.parametrize(("greatest", "high"), [(0.9, 1.0), (1.0, 1.0), (1.04, 1.0), (220.0, 255.0)])
def test_floats_are_from_0_to_1_or_from_0_to_255(
    greatest: float, high: float, tmp_path: Path, folders: Folders
) -> None:
    arrays = [DRAWS.uniform(0, greatest, (9, 7, 1)).astype(np.float32) for _ in range(4)]
    arrays[1][0, 0] = greatest
    data = load(folders, folder_of(tmp_path / "d", [tiff(array) for array in arrays], "tif"), test_share=0.5)
    assert data.pixel_range == PixelRange(floats=high)
    for file, found in pixels_of(data).items():
        exact = scaled(arrays[int(file[2:4])][..., 0], 0, high)
        assert np.abs(found[0].astype(int) - exact).max() <= 1  # floats of 32 bits are rounded on the way


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_of_16_bits_is_read_at_full_depth(order: Literal["<", ">"], deflate: bool, channels: int) -> None:
    samples = DRAWS.integers(0, 4096, (6, 5, channels)).astype(np.uint16)
    samples[..., 3:] = 65535
    for data in (png16(samples), tiff(samples, order, deflate)):
        found = decode(data, None, 3, PixelRange(integers=4095))
        assert not isinstance(found, str), found
        assert (found.transpose(1, 2, 0) == scaled(samples[..., :3], 0, 4095)).all()


def test_grey_of_16_bits_with_alpha_is_grey(tmp_path: Path) -> None:
    samples = DRAWS.integers(0, 4096, (6, 5, 2)).astype(np.uint16)
    samples[..., 1] = 65535
    samples[0, 0, 1] = 0
    (tmp_path / "a.png").write_bytes(png16(samples))
    header = read_header(tmp_path / "a.png")
    assert header is not None
    assert not header.colour
    found = decode(png16(samples), None, 1, PixelRange(integers=4095))
    assert not isinstance(found, str)
    expected = scaled(samples[..., 0], 0, 4095)
    expected[0, 0] = 128  # the background
    assert (found[0] == expected).all()


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(0, 5000, np.uint16), (-1000, 3000, np.int16), (2.5, 9.5, np.float32)]
)
def test_a_range_that_a_tiff_declares_is_its_own(low: float, high: float, dtype: Any, tmp_path: Path) -> None:
    samples = DRAWS.uniform(low, high, (9, 7, 1)).astype(dtype)
    image = Image.open(io.BytesIO(tiff(samples)))
    image.save(tmp_path / "x.tif", tiffinfo={340: float(low), 341: float(high)})
    for known in (PixelRange(), PixelRange(integers=65535, floats=255.0)):
        found = decode((tmp_path / "x.tif").read_bytes(), None, 1, known)
        assert not isinstance(found, str), found
        assert np.abs(found[0].astype(int) - scaled(samples[..., 0], low, high)).max() <= 1


def test_pgm_and_jpeg_2000_declare_theirs() -> None:
    samples = DRAWS.integers(0, 1001, (9, 7, 1)).astype(np.uint16)
    pgm = b"P5 7 9 1000\n" + samples.astype(">u2").tobytes()
    found = decode(pgm, None, 1)
    assert not isinstance(found, str), found
    assert np.abs(found[0].astype(int) - scaled(samples[..., 0], 0, 1000)).max() <= 1
    found = decode(by_pillow(samples * 60, "JPEG2000", irreversible=False), None, 1)
    assert not isinstance(found, str), found
    assert (found[0] == scaled(samples[..., 0] * 60, 0, 65535)).all()


def test_the_significant_bits_of_a_png_count() -> None:
    """By the specification the samples are spread over 16 bits; some writers leave them as they were."""

    def measured(greatest: int) -> int | None:
        return choose_range([Extreme("integers", greatest, bits=12)]).integers

    assert measured(300) == 4095
    assert measured(4095) == 4095
    assert measured(4096) == 65535
    assert choose_range([Extreme("integers", 300, 12), Extreme("integers", 9000)]).integers == 16383


def test_the_significant_bits_are_read_from_the_file(tmp_path: Path, folders: Folders) -> None:
    files = [png16(np.full((8, 8, 1), number, np.uint16), [(b"sBIT", b"\x0c")]) for number in range(4)]
    data = load(folders, folder_of(tmp_path / "d", files, "png"), test_share=0.5)
    assert data.pixel_range == PixelRange(integers=4095)


def test_files_of_8_bits_beside_deep_ones_stay_as_they_are(tmp_path: Path, folders: Folders) -> None:
    plain = DRAWS.integers(0, 256, (8, 8, 1)).astype(np.uint8)
    deep = (plain.astype(np.uint16) * 257) >> 4
    dataset = folder_of(tmp_path / "d", [by_pillow(plain, "PNG"), png16(deep), png16(deep // 2)], "png")
    found = pixels_of(load(folders, dataset, test_share=0.34))
    assert (found["a/00.png"] == plain[..., 0]).all()
    assert np.abs(found["a/01.png"].astype(int) - plain[..., 0]).max() <= 1


def test_fully_transparent_pixels_have_no_part_in_the_range(tmp_path: Path, folders: Folders) -> None:
    samples = np.zeros((8, 8, 4), np.uint16)
    samples[..., :3], samples[..., 3] = DRAWS.integers(0, 4096, (8, 8, 3)), 65535
    hidden = samples.copy()
    hidden[0, 0] = (60000, 50000, 40000, 0)
    samples[0, 0] = (0, 0, 0, 0)
    one, other = (
        load(folders, folder_of(tmp_path / name, [png16(array) + bytes(2 * more) for more in range(4)], "png"))
        for name, array in (("one", samples), ("other", hidden))
    )
    assert one.pixel_range == other.pixel_range == PixelRange(integers=4095)
    assert one.test_sha256 == other.test_sha256


def test_where_zero_is_white_dark_is_light() -> None:
    samples = DRAWS.integers(0, 4096, (6, 5, 1)).astype(np.uint16)
    for deflate in (False, True):
        found = decode(tiff(samples, photometric=0, deflate=deflate), None, 1, PixelRange(integers=4095))
        assert not isinstance(found, str), found
        assert (found[0] == 255 - scaled(samples[..., 0], 0, 4095)).all()


BAD: dict[str, tuple[Array, str]] = {
    "negative": (np.full((8, 8, 1), -5, np.int16), "negative values"),
    "negative bytes": (np.full((8, 8, 1), -5, np.int8), "negative values"),
    "negative floats": (np.full((8, 8, 1), -0.5, np.float32), "negative values"),
    "not a number": (np.full((8, 8, 1), np.nan, np.float32), "NaN"),
    "infinite": (np.full((8, 8, 1), np.inf, np.float32), "infinite"),
    "floats of no known range": (np.full((8, 8, 1), 3000.0, np.float32), "floats up to 3,000; expected 0 to 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_sensible_range_is_left_out_with_a_reason(name: str, tmp_path: Path, folders: Folders) -> None:
    samples, says = BAD[name]
    good = [by_pillow(np.full((8, 8, 1), number, np.uint8), "TIFF") for number in range(3)]
    data = load(folders, folder_of(tmp_path / "d", [*good, tiff(samples)], "tif"), test_share=0.34)
    assert data.num_unusable == 2
    assert all(says in str(record.problem) for record in data.manifest if record.split == "unusable")


def test_a_file_of_another_scale_than_the_others_is_left_out(tmp_path: Path, folders: Folders) -> None:
    files = [tiff(DRAWS.uniform(0, 1, (8, 8, 1)).astype(np.float32)) for _ in range(3)]
    files.append(tiff(DRAWS.uniform(0, 4000, (8, 8, 1)).astype(np.float32)))
    data = load(folders, folder_of(tmp_path / "d", files, "tif"), test_share=0.34)
    assert data.pixel_range == PixelRange(floats=1.0)
    problems = {record.file: str(record.problem) for record in data.manifest if record.split == "unusable"}
    assert problems.keys() == {"a/03.tif", "b/03.tif"}
    assert all("not the scale of the others, 0 to 1" in problem for problem in problems.values())


def halves(root: Path, write: Write, ending: str, number: int) -> str:
    """The two classes of the trial: noise at 8,000 to 12,000, one half raised by 30,000."""
    draws = np.random.default_rng(1)
    for label, name in enumerate(("left", "top")):
        (root / name).mkdir(parents=True)
        for place in range(number):
            samples = draws.integers(8000, 12001, (32, 32, 1)).astype(np.uint16)
            half = samples[:, :16] if label == 0 else samples[:16]
            half += 30000
            (root / name / f"{place}.{ending}").write_bytes(write(samples))
    return f"folder:{root}"


def trained(spec: RunSpec, folders: Folders) -> tuple[RunStarted, float]:
    events = list(Lab(folders).train(spec).events())
    started = next(event for event in events if isinstance(event, RunStarted))
    final = [event for event in events if isinstance(event, Evaluated)][-1]
    return started, final.metrics.accuracy


WRITERS = pytest.mark.parametrize(("write", "ending"), [(png16, "png"), (tiff, "tif")], ids=["png", "tiff"])


@WRITERS
def test_what_16_bits_show_is_learnt_and_the_range_recorded(
    write: Write, ending: str, tmp_path: Path, folders: Folders
) -> None:
    spec = RunSpec(halves(tmp_path / "d", write, ending, 40), "resnet20", epochs=4, batch_size=8, image_size=8)
    started, accuracy = trained(spec, folders)
    assert started.pixel_range == (65535, None)
    assert to_json_dict(started)["pixel_range"] == [65535, None]
    assert accuracy >= 0.95


@pytest.mark.slow
@WRITERS
def test_the_trial_at_its_own_size(write: Write, ending: str, tmp_path: Path, folders: Folders) -> None:
    spec = RunSpec(halves(tmp_path / "d", write, ending, 100), "resnet20", epochs=3, batch_size=16)
    assert trained(spec, folders)[1] >= 0.95
