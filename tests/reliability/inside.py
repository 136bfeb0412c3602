"""Troubles from within: losses that are not finite, terminals that are resized, hours of updates."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses import FakeTensor

from engine.data.batches import Preparation
from engine.events import Event, RunEnded, StepsCompleted
from engine.lab import Lab
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import ScriptedRun, events_of
from tests.reliability.tries import SPEC, Outcome, folders_in, resume_point_of

_SLOPE_MIB = 1.0  # an hour


def not_finite(count: int, folder: Path) -> Outcome:
    """The loss is NaN, or infinite, at step k, for every k of an epoch."""
    outcome = Outcome()
    for number in range(count):
        step, value = number % 12 + 1, (float("nan"), float("inf"))[number % 2]
        folders, problems = folders_in(folder / str(number)), list[str]()
        with _poisoned(step, value):
            *_, ended = Lab(folders).train(SPEC.replace(epochs=1)).events()
        assert isinstance(ended, RunEnded)
        if ended.status != "diverged":
            problems.append(f"it ended {ended.status}")
        elif f"step {step}" not in str(ended.error) or "try " not in str(ended.error):
            problems.append(f"it said {ended.error!r}")
        with Store(folders.database) as store:
            details = store.details(1)
        if details.weights is not None:
            state = resume_point_of(folders, details).model
            if not all(torch.isfinite(values).all() for values in state.values()):
                problems.append("the checkpoint is not finite")
        elif step > 1:
            problems.append("no checkpoint was kept")
        outcome.add([f"step {step}: {problem}" for problem in problems])
    return outcome


@contextmanager
def _poisoned(step: int, value: float) -> Iterator[None]:
    whole, count = Preparation.augment, 0

    def augment(self: Preparation, *arguments: Any) -> Any:
        nonlocal count
        images = whole(self, *arguments)
        if isinstance(images, FakeTensor):  # the forecast's
            return images
        count += 1
        return torch.full_like(images, value, dtype=torch.float32) if count == step else images

    with patch.object(Preparation, "augment", augment):
        yield


def resized(count: int, folder: Path) -> Outcome:
    """Sizes from 20×5 to 300×100 while a run tells of itself fifty times a second."""
    problems = asyncio.run(_resize(count, folder))
    return Outcome(count, problems)


async def _resize(count: int, folder: Path) -> list[str]:
    from tui.app import ReslabApp

    draws, script = random.Random(6), ScriptedRun(hold_at=2, events=_many_events())
    app = ReslabApp(folders_in(folder), [RunSpec("digits", "resnet18", epochs=6000)], backend_of=script)
    modes = ("1", "2", "3", "2")
    try:
        async with app.run_test(size=(120, 36)) as pilot:
            while app.live is None or app.live.version < 2:
                await pilot.pause(0.02)
            for number in range(count):
                app.session.events.extend(_steps(number, 1))
                if number % 25 == 0:
                    await pilot.press(modes[number // 25 % len(modes)])
                await pilot.resize_terminal(draws.randint(20, 300), draws.randint(5, 100))
                if app.current_mode == "train":
                    app.screen.redraw()  # type: ignore[attr-defined]
                await asyncio.sleep(0.02)
            script.release.set()
            app.stop_run()
            await pilot.pause()
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return []


def hours(count: int, folder: Path) -> Outcome:
    """So many simulated hours of ten updates a second, a million points in seven: memory beside the points is flat."""
    found = asyncio.run(_hours(count, folder))
    at, mib = zip(*found, strict=True)
    later = slice(len(found) // 4, None)  # the first quarter fills caches
    slope = float(np.polyfit(at[later], mib[later], 1)[0])
    losses = [f"memory grew by {slope:.2f} MiB an hour"] if slope > _SLOPE_MIB else []
    return Outcome(count, losses, f"{slope:+.2f} MiB an hour, the curves' own points left out")


async def _hours(count: int, folder: Path) -> list[tuple[float, float]]:
    from tui.app import ReslabApp

    script = ScriptedRun(hold_at=2, events=_many_events())
    app = ReslabApp(folders_in(folder), [RunSpec("digits", "resnet18", epochs=100_000)], backend_of=script)
    found = []
    async with app.run_test(size=(120, 36)) as pilot:
        while app.live is None or app.live.version < 2:
            await pilot.pause(0.02)
        tracemalloc.start()
        for second in range(count * 3600):
            app.session.events.extend(_steps(second, 10))
            if second % 20 == 0:
                app.screen.redraw()  # type: ignore[attr-defined]
                await pilot.pause()
            if second % 360 == 359:
                gc.collect()
                points = sum(getattr(app.live, name)._points.nbytes for name in ("train_loss", "train_accuracy"))
                found.append((second / 3600, (tracemalloc.get_traced_memory()[0] - points) / 2**20))
        tracemalloc.stop()
        script.release.set()
        app.stop_run()
        await pilot.pause()
    return found


def _many_events() -> list[Event]:
    return events_of(RunSpec("digits", "resnet18", epochs=2))[:3]


def _steps(second: int, number: int) -> list[Event]:
    """Events of one second: seven steps each."""
    found: list[Event] = []
    for index in range(number):
        first = (second * number + index) * 7 + 7
        losses, accuracies = (2.3 / first,) * 7, (0.5,) * 7
        found.append(StepsCompleted(1, 1 + first // 12, first, losses, accuracies, 0.01, first * 128, 0.01 * first))
    return found
