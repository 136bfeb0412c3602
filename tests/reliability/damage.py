"""Damage to what lies on disk: flipped bits, files cut short, a disk that is full, image files out of joint."""

from __future__ import annotations

import errno
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from engine.control import RunControl
from engine.datasets.cache import decoded
from engine.datasets.decoding import decode
from engine.errors import CheckpointError, StoreError
from engine.paths import Places
from engine.results.store import Store
from engine.training.checkpoint import load_checkpoint
from tests.fakes import events_of
from tests.reliability import children
from tests.reliability.sudden import reference
from tests.reliability.tries import SPEC, Outcome, Story, check_resumed, failing_calls, finish, places_in, start

_CUT = 6  # every sixth try cuts the file short, the others flip one bit


def flipped(count: int, folder: Path) -> Outcome:
    """One bit flipped, or the file cut, in checkpoint, cache and database by turns."""
    draws, outcome, harmless = random.Random(3), Outcome(), 0
    reference(folder / "run")
    kinds: list[Callable[[random.Random, bool], str | None]] = [
        _Checkpoint(places_in(folder / "run")), _Cache(folder / "images"), _Database(folder / "record"),
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
    def __init__(self, places: Places) -> None:
        with Store(places.database) as store:
            weights = store.details(1).weights
        assert weights is not None
        self._path, self._sha256 = places.run_folder(1) / weights.file, weights.sha256
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
        (self._entry,) = self._cache.iterdir()
        self._whole = {path: path.read_bytes() for path in self._entry.iterdir()}

    def _read(self) -> tuple[bytes, tuple[object, ...]]:
        work = decoded(self._paths, "test", 16, 3, self._cache, RunControl())
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value.images.tobytes(), end.value.facts

    def __call__(self, draws: random.Random, cut: bool) -> str | None:
        _harm(draws.choice(sorted(self._whole)), draws, cut)
        found = self._read()
        for path, data in self._whole.items():
            path.write_bytes(data)
        return None if found == self._wanted else "damaged images came out of the cache"


class _Database:
    def __init__(self, folder: Path) -> None:
        self._path = places_in(folder).database
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
        except (StoreError, ValueError, KeyError, TypeError):  # the last three: values that are no longer such
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
        home, places = folder / f"{at}", places_in(folder / f"{at}")
        code = finish(start(children.train_failing, home, at, _ERRORS[number % 4], counted))
        problems = [] if code in (0, 3) else [f"it ended with exit code {code}"]
        if places.database.exists():
            problems += _after_a_full_disk(home, places, untroubled)
        went_on += code == 0
        shutil.rmtree(home, ignore_errors=True)
        outcome.add([f"call {at} of {total}, error {_ERRORS[number % 4]}: {problem}" for problem in problems])
    outcome.note = f"of {total} calls; in {went_on} tries the run came to an end of its own, in the others a sentence"
    return outcome


def full_disk(count: int, folder: Path) -> Outcome:
    """No room: for a checkpoint, for the record, for anything; then there is room again and the run goes on."""
    untroubled, _ = reference(folder / "reference")
    draws, outcome = random.Random(4), Outcome()
    for number in range(count):
        home = folder / str(number)
        room = (1_000_000, 100_000, 60_000, 20_000)[number % 4] + draws.randrange(10_000)
        code = finish(start(children.train_with_small_files, home, room))
        problems = []
        if code is None:
            problems.append("it hung")
        places = places_in(home)
        if places.database.exists():
            problems += _after_a_full_disk(home, places, untroubled)
        outcome.add([f"{room:,} bytes: {problem}" for problem in problems])
    outcome.note = "by a bound on the size of a file (RLIMIT_FSIZE), which needs no right to mount"
    return outcome


def _after_a_full_disk(home: Path, places: Places, untroubled: Story) -> list[str]:
    try:
        with Store(places.database) as store:
            store.settle_lost_runs()
            runs = store.runs()
    except StoreError as error:
        return [f"the record cannot be read any more: {error}"]
    if not runs:
        return []
    if runs[0].status != "completed" and finish(start(children.go_on, home)) != 0:
        return ["it could not go on"]
    return check_resumed(places, untroubled)


def images(count: int, folder: Path) -> Outcome:
    """JPEG, PNG, GIF and BMP files with bytes changed, cut out, put in: decoded or left out with a reason."""
    draws, outcome, usable = random.Random(5), Outcome(), 0
    files = _image_files(folder)
    process = psutil.Process()
    before = process.memory_info().rss
    for number in range(count):
        data = _mutated(files[number % len(files)], draws)
        began = time.monotonic()
        problems = []
        try:
            found = decode(data, 32, 3)
        except BaseException as error:
            problems.append(f"{type(error).__name__} came out of decoding")
        else:
            usable += not isinstance(found, str)
            if isinstance(found, str) and not found:
                problems.append("left out without a reason")
            if not isinstance(found, str) and (found.shape != (3, 32, 32) or found.dtype.name != "uint8"):
                problems.append(f"pixels of another kind: {found.shape}")
        if time.monotonic() - began > 5:
            problems.append("it took more than five seconds")
        outcome.add([f"file {number}: {problem}" for problem in problems])
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
    for name in ("a.jpg", "a.png", "a.gif", "a.bmp"):
        Image.fromarray(smooth).save(folder / name)
        found.append((folder / name).read_bytes())
    shutil.rmtree(folder)
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


def two_labs(count: int, folder: Path) -> Outcome:
    """Two processes train in one home folder while a third one lists, opens and queues."""
    outcome = Outcome()
    for number in range(count):
        home, problems = folder / str(number), list[str]()
        places = places_in(home)
        processes = [start(children.train_spec, home, SPEC.replace(seed=seed)) for seed in (0, 1)]
        while any(process.is_alive() for process in processes):
            try:
                with Store(places.database) as store:
                    store.settle_lost_runs()
                    for record in store.runs():
                        store.details(record.run)
                    store.enqueue([SPEC])
                    store.take_next()
            except StoreError as error:
                problems.append(f"the reader was told: {error}")
            time.sleep(0.05)
        if any(process.exitcode != 0 for process in processes):
            problems.append("one of them failed")
        with Store(places.database) as store, sqlite3.connect(places.database) as db:
            states = [(record.status, store.intact(record.run)) for record in store.runs()]
            if states != [("completed", True)] * 2:
                problems.append(f"the runs ended as {states}")
            if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                problems.append("the record is corrupt")
        outcome.add(problems)
    return outcome
