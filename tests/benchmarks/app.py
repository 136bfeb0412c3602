"""Benchmarks of the app: how soon it answers, how long its lists and charts take, and what it takes from a training."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.device import cpu_name
from engine.paths import Places
from engine.spec import RunSpec


def _summary(title: str, unit: str, values: Sequence[float], bound: str = "") -> None:
    ordered = sorted(values)
    print(
        f"  {title:<28} median {statistics.median(ordered):9.3f} {unit}  "
        f"({ordered[0]:.3f} to {ordered[-1]:.3f}, n = {len(ordered)}){bound}"
    )


def _places(folder: str) -> Places:
    root = Path(folder)
    return Places(root / "home", root / "data", root / "cache")


# --- many runs -------------------------------------------------------------------------------------------------------


def store_many_runs(places: Places, num_runs: int) -> None:
    """So many rows in the record: one whole run, then copies of its row with other figures."""
    from engine.results.store import Store
    from tests.fakes import events_of

    with Store(places.database) as store:
        run = store.create_run(RunSpec("digits", "resnet18"))
        for event in events_of(RunSpec("digits", "resnet18"), run):
            store.record(event)
    with sqlite3.connect(places.database) as db:
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
        places = _places(folder)
        store_many_runs(places, num_runs)
        found: dict[str, list[float]] = {"open": [], "sort": [], "filter": []}
        for _ in range(num_times):
            for name, seconds in asyncio.run(_visit_results(places)).items():
                found[name].append(seconds)
    print(f"Results with {num_runs:,} runs, at 120×36  ({cpu_name()})")
    for name, values in found.items():
        _summary(name, "s", values)


async def _visit_results(places: Places) -> dict[str, float]:
    from tui.app import ReslabApp
    from tui.widgets.table import Table

    app = ReslabApp(places)
    app.session.load_torch = lambda: None  # type: ignore[method-assign]  # torch's import would take its core
    found = {}
    async with app.run_test(size=(120, 36)) as pilot:
        while app.listing is None:  # the app reads the record at its start, too
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
