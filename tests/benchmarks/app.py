"""Benchmarks of the app: how soon it answers, how long its lists and charts take, and what it takes from a training."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import os
import pty
import random
import signal
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from engine.device import cpu_name
from engine.paths import Folders
from engine.spec import RunSpec
from tests.benchmarks.terminal import as_installed

RESLAB = (sys.executable, "-m", "tui")


def _summary(title: str, unit: str, values: Sequence[float], bound: str = "") -> None:
    ordered = sorted(values)
    print(
        f"  {title:<28} median {statistics.median(ordered):9.3f} {unit}  "
        f"({ordered[0]:.3f} to {ordered[-1]:.3f}, n = {len(ordered)}){bound}"
    )


def _folders(folder: str) -> Folders:
    root = Path(folder)
    return Folders(root / "home", root / "data", root / "cache")


# --- many runs -------------------------------------------------------------------------------------------------------


def store_many_runs(folders: Folders, num_runs: int) -> None:
    """So many rows in the record: one whole run, then copies of its row with other figures."""
    from engine.store.store import Store
    from tests.fakes import events_of

    with Store(folders.database) as store:
        run = store.create_run(RunSpec("digits", "resnet18"))
        for event in events_of(RunSpec("digits", "resnet18"), run):
            store.record(event)
    with sqlite3.connect(folders.database) as db:
        names = [name for _, name, *_ in db.execute("PRAGMA table_info(runs)") if name != "run"]
        (row,) = db.execute(f"SELECT {', '.join(names)} FROM runs").fetchall()
        first = dict(zip(names, row, strict=True))
        datasets, models = ("digits", "mnist", "cifar10"), ("resnet18", "resnet34", "plain18", "resnet50")
        copies = [
            first | {
                "dataset": datasets[number % 3],
                "model": models[number % 4],
                "created_at": first["created_at"] + number,
                "elapsed_s": 1.0 + number * 7919 % 1000,
            }
            for number in range(1, num_runs)
        ]  # fmt: skip
        db.executemany(
            f"INSERT INTO runs ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})", copies
        )


def many_runs(num_times: int = 5, num_runs: int = 10_000) -> None:
    """Results with 10,000 stored runs: seconds from a key to the changed screen, for opening, sorting, filtering."""
    with tempfile.TemporaryDirectory() as folder:
        folders = _folders(folder)
        store_many_runs(folders, num_runs)
        found: dict[str, list[float]] = {"open": [], "sort": [], "filter": []}
        for _ in range(num_times):
            for name, seconds in asyncio.run(_visit_results(folders)).items():
                found[name].append(seconds)
    print(f"Results with {num_runs:,} runs, at 120×36  ({cpu_name()})")
    for name, values in found.items():
        _summary(name, "s", values)


async def _visit_results(folders: Folders) -> dict[str, float]:
    from tui.app import ReslabApp
    from tui.widgets.table import Table

    app = ReslabApp(folders)
    app.session.load_torch = lambda: None  # type: ignore[method-assign]  # torch's import would take its core
    found = {}
    async with app.run_test(size=(120, 36)) as pilot:
        while app.state.listing.value is None:  # the app reads the record at its start, too
            await pilot.pause(0.02)

        async def timed(keys: Sequence[str], done: Callable[[], bool]) -> float:
            began = time.perf_counter()
            await pilot.press(*keys)
            while not done() and time.perf_counter() - began < 10:
                await asyncio.sleep(0.001)
            await pilot.pause()
            return time.perf_counter() - began

        def table() -> Table:
            return app.screen.query_one(Table)

        found["open"] = await timed(["3"], lambda: bool(app.screen.query(Table)) and table().num_rows > 1)
        total = table().num_rows
        await pilot.pause(1.0)
        found["sort"] = await timed(["s"], lambda: table().ids[0] != total)
        await pilot.press("slash")
        found["filter"] = await timed(["f"], lambda: table().num_rows < total)
    return found


# --- a run beside the app --------------------------------------------------------------------------------------------


class Terminal:
    """A command in a pseudo-terminal of 120×36 cells, whose output a thread reads all the time."""

    def __init__(self, command: Sequence[str], env: dict[str, str] | None = None) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        self.process = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
            env={**as_installed(), "TERM": "xterm-256color", "COLORTERM": "truecolor", **(env or {})},
        )  # fmt: skip
        os.close(follower)
        self._seen = b""
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._leader, 65536)
            except OSError:  # the other end is closed: the process has ended
                return
            with self._more:
                self._seen = (self._seen + data)[-200_000:]
                self._more.notify()

    def press(self, key: bytes, until: bytes, timeout_s: float = 60.0) -> float:
        """Seconds from the key to the text that it brings up."""
        with self._more:
            self._seen = b""
            began = time.perf_counter()
            os.write(self._leader, key)
            if not self._more.wait_for(lambda: until in self._seen, timeout_s):
                raise TimeoutError(f"{key!r} did not bring up {until!r}")
            return time.perf_counter() - began

    def peak_bytes(self) -> int:
        """Wait for the end; the greatest resident memory that the process ever had."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_maxrss * 1024

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


# A key, and what it must bring up: on Set up the plan of the next dataset, and the two modes.
_DOWN, _UP = (b"\x1b[B", b"train 60,000"), (b"\x1b[A", b"train 1,437")
_KEYS = ((b"1", b"What will run"), _DOWN, _UP, _DOWN, _UP, (b"2", b"accuracy"))


def keys(num_rounds: int = 30) -> None:
    """From a key to the changed screen, in a pseudo-terminal, while ResNet-18 trains on the digits with all cores."""
    pauses, seconds = random.Random(0), []
    with tempfile.TemporaryDirectory() as home:
        train = (*RESLAB, "--home", home, "train", "digits", "resnet18", "--epochs", "1000", "--tui")
        terminal = Terminal(train)
        try:
            terminal.press(b"", b"step 1")
            for _ in range(num_rounds):
                for key, until in _KEYS:
                    time.sleep(pauses.uniform(0.1, 0.4))
                    seconds.append(1000 * terminal.press(key, until))
        finally:
            terminal.kill()
    print(f"key to changed screen while digits train  ({cpu_name()})")
    _summary("all keys", "ms", seconds)
    for (key, _), number in zip(_KEYS[:2], (0, 1), strict=True):
        _summary(repr(key), "ms", seconds[number :: len(_KEYS)])
    print(f"  95th percentile              {statistics.quantiles(seconds, n=20)[-1]:16.3f} ms")


def watching(num_pairs: int = 30, dataset: str = "digits") -> None:
    """Training speed with Train watched against the app with an empty screen on top, by turns; `watching 30 mnist`."""
    with tempfile.TemporaryDirectory() as home:
        terminal = Terminal((sys.executable, "-m", "tests.benchmarks.watched", home, str(num_pairs), dataset))
        try:
            terminal.process.wait(timeout=60 + 10 * num_pairs)
        finally:
            terminal.kill()
        pairs = [tuple(pair) for pair in json.loads((Path(home) / "pairs.json").read_text())]
    print(f"training speed on {dataset}, one run, windows of 1.5 s in turns  ({cpu_name()}, n = {len(pairs)} pairs)")
    _summary("watched", "images/s", [watched for watched, _ in pairs])
    _summary("an empty screen on top", "images/s", [not_watched for _, not_watched in pairs])
    _summary("ratio", "", [watched / not_watched for watched, not_watched in pairs])
    total = sum(watched for watched, _ in pairs) / sum(not_watched for _, not_watched in pairs)
    print(f"  ratio of the sums            {total:16.3f}")


def looking_memory(num_times: int = 5) -> None:
    """Resident memory of the app while somebody only looks, four and fifteen seconds after its first paint; and its
    peak with ResNet-18 on 240 photographs at 64×64, one epoch, in batches of 128 and of 32.

    The photographs are drawn here: noise of 96×96 in JPEG files, which are decoded and sized like any other.
    """
    looks: dict[float, list[float]] = {4.0: [], 15.0: []}
    peaks: dict[int, list[float]] = {128: [], 32: []}
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as photographs:
        _draw_photographs(Path(photographs), 240)
        for _ in range(num_times):
            terminal = Terminal((*RESLAB, "--home", home))
            try:
                terminal.press(b"", b"What will run")
                began = time.monotonic()
                for seconds, found in looks.items():
                    time.sleep(max(began + seconds - time.monotonic(), 0))
                    process = psutil.Process(terminal.process.pid)
                    everyone = (process, *process.children(recursive=True))
                    found.append(sum(one.memory_info().rss for one in everyone) / 1e9)
            finally:
                terminal.kill()
            train = (*RESLAB, "--home", home, "train", f"folder:{photographs}", "resnet18", "--image-size", "64")
            for batch_size, found in peaks.items():
                options = ("--epochs", "1", "--batch-size", str(batch_size), "--tui", "--exit")
                found.append(Terminal((*train, *options)).peak_bytes() / 1e9)
    print(f"resident memory, GB of 1,000,000,000 bytes  ({cpu_name()}, n = {num_times})")
    for seconds, found in looks.items():
        _summary(f"{seconds:.0f} s after the first paint", "GB", found)
    for batch_size, found in peaks.items():
        _summary(f"peak in batches of {batch_size}", "GB", found)


def _draw_photographs(folder: Path, number: int) -> None:
    draws = np.random.default_rng(0)
    for index in range(number):
        path = folder / ("cat", "dog")[index % 2] / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(path)


def app_memory(num_pairs: int = 5) -> None:
    """Resident memory of the app with a run on Train above the same run without it, and an hour of events."""
    pairs = []
    with tempfile.TemporaryDirectory() as home:
        train = (*RESLAB, "--home", home, "train", "digits", "resnet18", "--epochs", "3")
        for _ in range(num_pairs):
            app = Terminal((*train, "--tui", "--exit")).peak_bytes()
            headless = Terminal((*train, "--json")).peak_bytes()
            pairs.append((app / 2**20, headless / 2**20))
    print(f"peak of resident memory, three epochs of digits  ({cpu_name()}, n = {len(pairs)} pairs)")
    _summary("in the app", "MiB", [app for app, _ in pairs])
    _summary("headless", "MiB", [headless for _, headless in pairs])
    _summary("the app above the run", "MiB", [app - headless for app, headless in pairs])
    print("an hour of events, 10 a second, two steps each; traced memory of Python, MiB:")
    for name, traced, curves in asyncio.run(_an_hour()):
        print(f"  {name:<14} {traced:8.2f}, of it the curves' points {curves:6.2f}")


async def _an_hour() -> list[tuple[str, float, float]]:
    from engine.events import StepsCompleted
    from tests.fakes import ScriptedRun, events_of
    from tui.app import ReslabApp
    from tui.screens.train import TrainScreen

    spec, found = RunSpec("digits", "resnet18", epochs=6000), []
    script = ScriptedRun(hold_at=2, events=events_of(RunSpec("digits", "resnet18"))[:3])
    with tempfile.TemporaryDirectory() as folder:
        app = ReslabApp(_folders(folder), [spec], backend_of=script)
        async with app.run_test(size=(120, 36)) as pilot:
            while not (app.live and app.live.version == 2):
                await pilot.pause(0.02)
            screen = app.screen
            assert isinstance(screen, TrainScreen)
            tracemalloc.start()
            for second in range(3600):
                for tenth in range(10):
                    first = (second * 10 + tenth) * 2 + 1
                    event = StepsCompleted(
                        1,
                        1 + first // 12,
                        first,
                        (2.3 / first, 2.2 / first),
                        (0.5, 0.6),
                        0.01,
                        first * 128,
                        first * 0.05,
                    )
                    app.session.events.append(event)
                if second % 4 == 0:
                    screen.redraw()
                    await pilot.pause()
                if second % 900 == 899:
                    gc.collect()
                    curves = sum(getattr(app.live, name)._points.nbytes for name in ("train_loss", "train_accuracy"))
                    found.append(
                        (f"{second // 60 + 1} minutes", tracemalloc.get_traced_memory()[0] / 2**20, curves / 2**20)
                    )
            tracemalloc.stop()
            script.release.set()
            app.exit()
    return found
