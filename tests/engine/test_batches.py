"""Batches: their bounds, their order, normalisation and augmentation."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.data.batches import Preparation, batch_bounds, epoch_order, generator, random_crop, random_flip

CPU = torch.device("cpu")


@given(st.integers(2, 500), st.integers(2, 200))
def test_bounds_cover_every_image_once_and_no_batch_is_one(num_images: int, batch_size: int) -> None:
    bounds = batch_bounds(num_images, batch_size)
    assert [place for start, stop in bounds for place in range(start, stop)] == list(range(num_images))
    sizes = [stop - start for start, stop in bounds]
    assert min(sizes) >= 2
    assert max(sizes) <= batch_size + 1


def test_an_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    first = epoch_order(100, 3, 1)
    torch.manual_seed(99)
    assert epoch_order(100, 3, 1).equal(first)
    assert not epoch_order(100, 3, 2).equal(first)
    assert not epoch_order(100, 4, 1).equal(first)
    assert sorted(first.tolist()) == list(range(100))


def test_normalisation_is_the_textbooks() -> None:
    images = torch.randint(0, 256, (5, 3, 6, 7), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    expected = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(Preparation.build(mean, std, CPU)(images), expected, atol=1e-5, rtol=1e-5)


def test_each_image_is_mirrored_on_its_own() -> None:
    images = torch.arange(64 * 2, dtype=torch.uint8).view(64, 1, 1, 2)
    flipped = random_flip(images, generator(0, 1, 1))
    mirrored = (flipped == images.flip(-1)).all(dim=(1, 2, 3))
    kept = (flipped == images).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 16 < int(mirrored.sum()) < 48


def test_each_image_is_shifted_on_its_own_by_at_most_the_padding() -> None:
    images = torch.randint(1, 256, (40, 2, 9, 9), dtype=torch.uint8)
    cropped = random_crop(images, 2, generator(0, 1, 1))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for image, whole in zip(cropped, padded, strict=True):
        folders = [(y, x) for y in range(5) for x in range(5) if whole[:, y : y + 9, x : x + 9].equal(image)]
        assert len(folders) == 1
        seen.add(folders[0])
    assert len(seen) > 10


def test_a_step_sees_the_same_pixels_again() -> None:
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    prepare = Preparation.build((0.5,) * 3, (0.2,) * 3, CPU, flip=True, crop_padding=2)
    assert prepare.augment(images, 1, 2, 3).equal(prepare.augment(images, 1, 2, 3))
    assert not prepare.augment(images, 1, 2, 3).equal(prepare.augment(images, 1, 2, 4))
