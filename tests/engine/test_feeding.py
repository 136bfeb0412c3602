"""Images that do not fit into memory are read ahead from their file, and the run is the very same."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data.feeding import feed
from engine.data.images import Split
from engine.errors import SpecError
from engine.events import Evaluated, RunStarted, StepsCompleted
from engine.lab import Lab
from engine.memory import headroom
from engine.memory.headroom import memory_bound
from engine.paths import Folders
from engine.spec import RunSpec

CPU = torch.device("cpu")


def splits(tmp_path: Path) -> tuple[Split, Split]:
    """The same 50 images in memory, and as some rows of a mapped file."""
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (80, 3, 6, 6), np.uint8)
    pixels.tofile(tmp_path / "images.u8")
    rows = draws.permutation(80)[:50].astype(np.int64)
    labels = torch.from_numpy(draws.integers(0, 4, 50))
    mapped = np.memmap(tmp_path / "images.u8", np.uint8, "c", shape=pixels.shape)
    return (
        Split(torch.from_numpy(pixels[rows]), labels),
        Split(torch.from_numpy(mapped), labels, torch.from_numpy(rows)),
    )


@pytest.mark.parametrize("shuffled", [False, True])
def test_both_ways_give_the_same_batches_in_the_same_order(tmp_path: Path, shuffled: bool) -> None:
    resident, mapped = splits(tmp_path)
    order = torch.randperm(50) if shuffled else None
    bounds = [(0, 16), (16, 32), (32, 50)]
    assert resident.is_on(CPU)
    assert not mapped.is_on(CPU)
    for (images, labels), (same_images, same_labels) in zip(
        feed(resident, order, bounds, CPU), feed(mapped, order, bounds, CPU), strict=True
    ):
        assert images.equal(same_images)
        assert labels.equal(same_labels)


def test_a_mapped_split_is_the_one_in_memory(tmp_path: Path) -> None:
    resident, mapped = splits(tmp_path)
    assert resident.sha256() == mapped.sha256()
    assert resident.num_bytes == mapped.num_bytes
    assert mapped.to(CPU).images.equal(resident.images)
    some = torch.tensor([3, 1, 44])
    assert mapped.part(some).take(torch.tensor([1, 2])).images.equal(resident.images[[1, 44]])
    assert torch.cat(list(mapped.chunks(7))).equal(resident.images)


def test_the_reader_ends_with_whoever_reads(tmp_path: Path) -> None:
    _, mapped = splits(tmp_path)
    batches = feed(mapped, None, [(start, start + 2) for start in range(0, 50, 2)], CPU)
    next(batches)
    assert any(thread.name == "images" for thread in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]  # it is a generator
    assert not any(thread.name == "images" for thread in threading.enumerate())


def test_what_fails_in_the_reader_is_raised_where_the_batch_is_wanted(tmp_path: Path) -> None:
    _, mapped = splits(tmp_path)
    bad = Split(mapped.images, mapped.labels, torch.full((50,), 99))
    with pytest.raises(IndexError):
        list(feed(bad, None, [(0, 5)], CPU))


def photographs(folder: Path) -> Path:
    draws = np.random.default_rng(1)
    for name in ("bright", "dark"):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            pixels = draws.integers(0, 120, (32, 32, 3), np.uint8) + (120 if name == "bright" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def test_a_run_on_streamed_images_is_the_run_on_resident_ones(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photographs(tmp_path / "pictures")
    spec = RunSpec(f"folder:{folder}", "resnet20", epochs=2, batch_size=16, flip=True, val_share=0.2)
    found = {}
    for share in (0.5, 0.0):  # of the room, for the images
        monkeypatch.setattr(headroom, "SHARE_FOR_IMAGES", share)
        events = list(Lab(folders).train(spec).events())
        started = next(event for event in events if isinstance(event, RunStarted))
        losses = [loss for event in events if isinstance(event, StepsCompleted) for loss in event.losses]
        final = [event.predictions for event in events if isinstance(event, Evaluated)]
        found[started.resolved.images] = (losses, final, started.mean, started.test_sha256)
    assert found["resident"] == found["streamed"]


@pytest.mark.parametrize("text", ["much", "0", "-1"])
def test_a_bound_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RESLAB_MEMORY_GIB", text)
    with pytest.raises(SpecError, match="RESLAB_MEMORY_GIB"):
        memory_bound()
