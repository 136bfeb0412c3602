"""Exact duplicates: on one side of every split, counted where given parts share them; no other split moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.data.duplicates import count_shared, groups_of, pixel_groups
from engine.data.images import FIRST_RULES, Split
from engine.data.splits import split_off_val, stratified
from engine.errors import DatasetError
from engine.spec import RunSpec
from tests.engine.test_datasets import load as load_named
from tests.engine.test_datasets import write_idx_files
from tests.engine.test_folders import load, pictures

NAMES = tuple("abcdef")


@given(st.lists(st.integers(5, 40), min_size=2, max_size=6), st.floats(0.2, 0.8), st.integers(0, 2**32 - 1))
def test_without_duplicates_the_validation_split_is_what_it_always_was(
    counts: list[int], share: float, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    try:
        expected = stratified(labels, share, seed, "val")
    except DatasetError:
        return
    groups = np.random.default_rng(seed).permutation(len(labels))
    found = split_off_val(labels, groups, share, seed, NAMES)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_digits_split_for_validation_has_not_moved() -> None:
    """Its hash was written down before duplicates were looked for."""
    data = load_named(RunSpec("digits", "resnet18", val_share=0.2))
    assert data.val is not None
    assert data.train_sha256 == data.train.sha256() + data.val.sha256()
    assert data.train_sha256[:16] == DIGITS
    assert (data.shared, data.notes) == ({}, ())


DIGITS = "b7562fab86982edb"


def test_a_file_and_its_copies_are_all_held_out_or_none(tmp_path: Path) -> None:
    root = pictures(tmp_path / "images", {"a": 30, "b": 30})
    for number in range(14):
        (root / "a" / f"copy{number}.png").write_bytes((root / "a" / f"{number}.png").read_bytes())
    crossing = 0
    for seed in range(6):
        for rules in (FIRST_RULES, None):
            data = load(root, rules, val_share=0.3, split_seed=seed)
            parts: dict[str, set[str]] = {}
            for record in data.manifest:
                parts.setdefault(record.sha256, set()).add(record.split)
            several = sum(len(found) > 1 for found in parts.values())
            crossing += several * (rules == FIRST_RULES)
            assert rules == FIRST_RULES or not several
    assert crossing  # a run that began by the first rules keeps the split that it has trained with


def test_rows_that_are_no_files_are_kept_together_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 28, 28), dtype=np.uint8)
    images[40:] = images[:40]
    labels = np.arange(80, dtype=np.uint8) % 10
    write_idx_files(tmp_path / "MNIST" / "raw", images, labels, "train")
    write_idx_files(tmp_path / "MNIST" / "raw", np.concatenate([images[:3], images[:1] // 2]), labels[:4], "t10k")
    data = load_named(RunSpec("mnist", "resnet18", val_share=0.25), tmp_path)
    assert data.val is not None
    train, val = ({row.numpy().tobytes() for row in part.images} for part in (data.train, data.val))
    assert not train & val
    assert data.shared == {"train and test": 3}
    assert data.notes == ("3 images are in both train and test",)


@pytest.mark.parametrize("width", [1, 3, 8, 9])
def test_pixel_groups_are_those_of_comparing_every_pair(width: int) -> None:
    rng = np.random.default_rng(width)
    rows = rng.integers(0, 2, (60, 1, 3, width), dtype=np.uint8) * 128  # few values, so that many are the same
    splits = [Split(torch.from_numpy(part), torch.zeros(len(part), dtype=torch.int64)) for part in np.split(rows, [40])]
    groups = np.concatenate(pixel_groups(splits))
    same = (rows[:, None] == rows[None]).all((2, 3, 4))
    assert ((groups[:, None] == groups[None]) == same).all()


def test_images_with_the_same_sum_are_told_apart() -> None:
    """Bytes whose weighted sums are the same modulo 2^64: 128 in the highest byte of any two words."""
    rows = np.zeros((3, 1, 4, 8), np.uint8)
    rows[0, 0, :2, 7] = rows[1, 0, 2:, 7] = 128
    (groups,) = pixel_groups([Split(torch.from_numpy(rows), torch.zeros(3, dtype=torch.int64))])
    assert len(set(groups.tolist())) == 3


def test_shared_images_are_counted_between_every_two_parts() -> None:
    keys = {name: np.array(list(text)) for name, text in (("test", "abxx"), ("train", "abc"), ("val", "cx"))}
    assert count_shared(keys) == {"train and val": 1, "train and test": 2, "val and test": 2}
    assert groups_of(np.array(["b", "a", "b"])).tolist() == [1, 0, 1]


def test_an_image_in_two_classes_is_said(tmp_path: Path) -> None:
    root = pictures(tmp_path / "images", {"a": 6, "b": 6})
    (root / "b" / "same.png").write_bytes((root / "a" / "0.png").read_bytes())
    assert "1 image is in more than one class" in load(root).notes


def test_a_class_that_is_too_small_to_hold_out_from_is_named(tmp_path: Path) -> None:
    root = pictures(tmp_path / "images", {"train/a": 9, "train/b": 9, "train/rare": 1, "test/a": 2, "test/b": 2})
    with pytest.raises(DatasetError, match=r"as the val set .rare has only one"):
        load(root, val_share=0.2)
