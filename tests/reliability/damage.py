"""Damage to what lies on disk: flipped bits, files cut short, a disk that is full, image files out of joint."""

from __future__ import annotations

import errno
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import psutil
from PIL import Image

from engine.control import RunControl
from engine.data.cache import Decoded, decoded
from engine.data.decoding import decode
from engine.errors import CheckpointError, StoreError
from engine.paths import Folders
from engine.store.store import Store
from engine.training.checkpoint import load_checkpoint
from tests.fakes import drain, events_of
from tests.reliability import children
from tests.reliability.full_disk import after_a_full_disk
from tests.reliability.sudden import reference
from tests.reliability.tries import SPEC, Outcome, failing_calls, finish, folders_in, start

_CUT = 6  # every sixth try cuts the file short, the others flip one bit


def flipped(count: int, folder: Path) -> Outcome:
    """One bit flipped, or the file cut, in checkpoint, cache and database by turns."""
    draws, outcome, harmless = random.Random(3), Outcome(), 0
    reference(folder / "run")
    kinds: list[Callable[[random.Random, bool], str | None]] = [
        _Checkpoint(folders_in(folder / "run")), _Cache(folder / "images"), _Database(folder / "record"),
    ]  # fmt: skip
    for number in range(count):
        said = kinds[number % 3](draws, number % _CUT == _CUT - 1)
        harmless += said == "harmless"
        outcome.add([] if said in (None, "harmless") else [f"try {number}: {said}"])
    outcome.note = f"{harmless} hit bytes that nothing is read from, and changed nothing that is"
    return outcome


def _harm(path: Path, draws: random.Random, cut: bool) -> None:
    data = bytearray(path.read_bytes())
    if cut:
        del data[draws.randrange(len(data)) :]
    else:
        data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    path.write_bytes(data)


class _Checkpoint:
    def __init__(self, folders: Folders) -> None:
        with Store(folders.database) as store:
            weights = store.details(1).weights
        assert weights is not None
        self._path, self._sha256 = folders.run_folder(1) / weights.file, weights.sha256
        self._whole = self._path.read_bytes()

    def __call__(self, draws: random.Random, cut: bool) -> str | None:
        _harm(self._path, draws, cut)
        try:
            load_checkpoint(self._path, self._sha256)
        except CheckpointError:
            return None
        finally:
            self._path.write_bytes(self._whole)
        return "a damaged checkpoint was loaded"


def _decoded(paths: list[Path], cache: Path, size: int) -> Decoded:
    _, found = drain(decoded(paths, "test", size, 3, cache, RunControl()))
    return cast(Decoded, found)


class _Cache:
    """Six photographs, decoded and kept; damage must have them decoded anew."""

    def __init__(self, folder: Path) -> None:
        self._cache, folder = folder / "cache", folder / "files"
        folder.mkdir(parents=True)
        draws = np.random.default_rng(0)
        for number in range(6):
            Image.fromarray(draws.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{number}.png")
        (folder / "broken.png").write_bytes(b"no image")
        self._paths = sorted(folder.iterdir())
        self._wanted = self._read()
        (self._entry,) = (path for path in self._cache.iterdir() if path.suffix != ".lock")
        self._whole = {path: path.read_bytes() for path in self._entry.iterdir()}

    def _read(self) -> tuple[bytes, tuple[object, ...]]:
        found = _decoded(self._paths, self._cache, 16)
        return found.images.tobytes(), tuple(found.facts)

    def __call__(self, draws: random.Random, cut: bool) -> str | None:
        _harm(draws.choice(sorted(self._whole)), draws, cut)
        found = self._read()
        for path, data in self._whole.items():
            path.write_bytes(data)
        return None if found == self._wanted else "damaged images came out of the cache"


class _Database:
    def __init__(self, folder: Path) -> None:
        self._path = folders_in(folder).database
        with Store(self._path) as store:
            store.create_run(SPEC)
            for event in events_of(SPEC, 1):
                store.record(event)
            self._wanted = self._all_of(store)
        self._whole = self._path.read_bytes()

    @staticmethod
    def _all_of(store: Store) -> tuple[object, ...]:
        return store.runs(), store.details(1), store.predictions(1), store.waiting()

    def __call__(self, draws: random.Random, cut: bool) -> str | None:
        _harm(self._path, draws, cut)
        try:
            with Store(self._path) as store:
                found = self._all_of(store)
        except StoreError:
            return None
        except Exception as error:
            return f"{type(error).__name__} from a damaged record"
        finally:
            for left in self._path.parent.iterdir():
                left.unlink()
            self._path.write_bytes(self._whole)
        return "harmless" if found == self._wanted else "a changed record was read as if it were whole"


_ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, 0)


def writes(count: int, folder: Path) -> Outcome:
    """Every call that writes, syncs, renames, cuts, deletes or opens for writing fails once, each by its number.

    With `count` 0 all of them, each with one of the errors by turns; else so many of them, evenly apart.
    """
    outcome = Outcome()
    if failing_calls() is None:
        outcome.note = "not tried: it needs Linux and a C compiler"
        return outcome
    untroubled, _ = reference(folder / "reference", children.train_one_epoch)
    counted = folder / "counted"
    if finish(start(children.train_failing, folder / "counting", -1, 0, counted)) != 0:
        raise RuntimeError("the run that is only counted did not end well")
    total = int(counted.read_text())
    went_on = 0
    for number in range(count or total):
        at = number + 1 if not count else 1 + number * total // count
        home, folders = folder / f"{at}", folders_in(folder / f"{at}")
        code = finish(start(children.train_failing, home, at, _ERRORS[number % 4], counted))
        problems = [] if code in (0, 3) else [f"it ended with exit code {code}"]
        if folders.database.exists():
            problems += after_a_full_disk(home, folders, untroubled)
        went_on += code == 0
        shutil.rmtree(home, ignore_errors=True)
        outcome.add([f"call {at} of {total}, error {_ERRORS[number % 4]}: {problem}" for problem in problems])
    outcome.note = f"of {total} calls; in {went_on} tries the run came to an end of its own, in the others a sentence"
    return outcome


_ENDINGS = ("jpg", "png", "gif", "bmp")


def images(count: int, folder: Path) -> Outcome:
    """JPEG, PNG, GIF and BMP files with bytes changed, cut out, put in: decoded or left out with a reason."""
    draws, outcome, usable = random.Random(5), Outcome(), 0
    files = _image_files(folder)
    written = folder / "mutated"
    written.mkdir(parents=True)
    reasons: list[str | None] = []
    process = psutil.Process()
    before = process.memory_info().rss
    for number in range(count):
        data = _mutated(files[number % len(files)], draws)
        (written / f"{number:05}.{_ENDINGS[number % len(files)]}").write_bytes(data)
        began = time.monotonic()
        problems = []
        try:
            found = decode(data, 32, 3)
        except BaseException as error:
            problems.append(f"{type(error).__name__} came out of decoding")
        else:
            usable += not isinstance(found, str)
            reasons.append(found if isinstance(found, str) else None)
            if isinstance(found, str) and not found:
                problems.append("left out without a reason")
            if not isinstance(found, str) and (found.shape != (3, 32, 32) or found.dtype.name != "uint8"):
                problems.append(f"pixels of another kind: {found.shape}")
        if time.monotonic() - began > 5:
            problems.append("it took more than five seconds")
        outcome.add([f"file {number}: {problem}" for problem in problems])
    listed = _decoded(sorted(written.iterdir()), folder / "cache", 32)
    if [fact.problem for fact in listed.facts] != reasons or len(listed.images) != usable:
        outcome.losses.append("the list of unusable files is another than decoding them one by one gives")
    grown = process.memory_info().rss - before
    if grown > 300 * 2**20:
        outcome.losses.append(f"memory grew by {grown / 2**20:.0f} MiB")
    outcome.note = (
        f"{usable} still decode, the others are left out with a reason; memory grew by {grown / 2**20:.0f} MiB"
    )
    return outcome


def _image_files(folder: Path) -> list[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    draws, found = np.random.default_rng(1), []
    smooth = np.cumsum(draws.integers(-9, 10, (120, 160, 3)), 1).astype(np.uint8)
    for ending in _ENDINGS:
        Image.fromarray(smooth).save(folder / f"a.{ending}")
        found.append((folder / f"a.{ending}").read_bytes())
    return found


def _mutated(data: bytes, draws: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draws.randint(1, 3)):
        at = draws.randrange(len(changed))
        match draws.randrange(12) // 2:
            case 0:
                changed[at] ^= 1 << draws.randrange(8)
            case 1:
                changed[at] = draws.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del changed[at : at + draws.randint(1, 64)]
            case 3:
                changed[at:at] = draws.randbytes(draws.randint(1, 64))
            case 4 if draws.random() < 0.3:
                del changed[max(at, 16) :]
            case _:
                changed[at:at] = changed[at : at + draws.randint(1, 64)]
        if len(changed) < 2:
            break
    return bytes(changed)
