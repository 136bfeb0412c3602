"""The decoded images on disk, where several are at them at once, or somebody was killed at them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.control import RunControl
from engine.data.cache import Decoded, decoded
from engine.data.cache_index import read_sealed, write_sealed
from engine.locking import lock_of, try_to_lock
from engine.progress import LoadingStopped
from tests.fakes import drain


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    draws = np.random.default_rng(0)
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(8):
        Image.fromarray(draws.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def test_who_comes_second_waits_and_reads_what_the_first_has_made(paths: list[Path], tmp_path: Path) -> None:
    first = decoded(paths, "a", 8, 3, tmp_path / "cache", RunControl())
    assert next(first).stage == "decode"  # in the middle of it
    second = decoded(paths, "a", 8, 3, tmp_path / "cache", RunControl())
    assert next(second).stage == "wait for another process to decode"
    _, one = drain(first)
    told, other = drain(second)
    assert "decode" not in {progress.stage for progress in told}
    assert np.array_equal(one.images, other.images)


def test_waiting_hears_a_stop(paths: list[Path], tmp_path: Path) -> None:
    first = decoded(paths, "a", 8, 3, tmp_path / "cache", RunControl())
    next(first)
    control = RunControl()
    second = decoded(paths, "a", 8, 3, tmp_path / "cache", control)
    next(second)
    control.stop()
    with pytest.raises(LoadingStopped):
        next(second)


def test_many_threads_get_the_same_images(paths: list[Path], tmp_path: Path) -> None:
    found: list[Decoded] = []

    def work() -> None:
        found.append(drain(decoded(paths, "a", 8, 3, tmp_path / "cache", RunControl()))[1])

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(np.array_equal(one.images, found[0].images) for one in found)


def test_what_a_killed_process_left_goes(paths: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    for name in (".0123456789abcdef.part", ".fedcba9876543210.part"):
        (folder / name).mkdir(parents=True)
        (folder / name / "images.u8").write_bytes(bytes(1000))
    with lock_of(folder / "fedcba9876543210").open("a") as lock:
        assert try_to_lock(lock)  # somebody is still at this one
        drain(decoded(paths, "a", 8, 3, folder, RunControl()))
    assert [path.name for path in folder.glob("*.part")] == [".fedcba9876543210.part"]


def test_a_file_that_is_far_too_large_is_not_read(paths: list[Path], tmp_path: Path) -> None:
    with paths[3].open("ab") as file:
        file.truncate(2**40)  # a hole: it takes nothing on the disk
    _, found = drain(decoded(paths, "a", 8, 3, tmp_path / "cache", RunControl()))
    assert [fact.problem for fact in found.facts] == [None] * 3 + ["larger than 1,024 MiB"] + [None] * 4
    assert len(found.images) == 7


def test_an_entry_of_an_earlier_version_is_read(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has every hash and problem in its index.json."""
    paths[2].write_bytes(b"no image")
    _, before = drain(decoded(paths, "a", 8, 3, tmp_path / "cache", RunControl()))
    (entry,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    now = read_sealed(entry / "index.json")
    earlier = {name: now[name] for name in ("version", "source", "shape", "sha256", "pixel_range")}
    facts = {"hashes": [fact.sha256 for fact in before.facts], "problems": [fact.problem for fact in before.facts]}
    write_sealed(entry / "index.json", {**earlier, **facts})
    (entry / "hashes.bin").unlink()
    monkeypatch.setattr("engine.data.decoding.decode", lambda *_: pytest.fail("decoded again"))
    _, found = drain(decoded(paths, "a", 8, 3, tmp_path / "cache", RunControl()))
    assert found.facts == before.facts
    assert np.array_equal(found.images, before.images)


@pytest.mark.parametrize("name", ["index.json", "hashes.bin"])
def test_a_damaged_index_is_noticed(paths: list[Path], tmp_path: Path, name: str) -> None:
    _, before = drain(decoded(paths, "a", 8, 3, tmp_path / "cache", RunControl()))
    (file,) = (tmp_path / "cache").glob(f"*/{name}")
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    told, found = drain(decoded(paths, "a", 8, 3, tmp_path / "cache", RunControl()))
    assert "decode" in {progress.stage for progress in told}
    assert found.facts == before.facts
