"""Every mode as a picture at three sizes. Look at the SVGs before storing new ones."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from textual.app import App, ComposeResult

from engine.analysis.mistakes import Mistake
from engine.data.manifest import MANIFEST_NAME, FileRecord, write_manifest
from engine.events import GradientsMeasured
from engine.memory.ledger import Holding, HoldingPart
from engine.paths import Folders
from engine.predicting import Guess
from engine.records import WeightsRecord
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import ScriptedRun, events_of
from tests.tui.conftest import Compare, MakeApp, at_every_size, drawn, text_of, until
from tui.widgets.confusion import ConfusionMap

SPEC = RunSpec("digits", "resnet18")


def record_runs(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(1_764_000_000.0 + 3600 * hour for hour in range(100))
    now = SimpleNamespace(time=lambda: next(moments), monotonic=time.monotonic)
    monkeypatch.setattr("engine.store.store.time", now)  # the store's own clock alone
    with Store(folders.database) as store:
        for spec in (SPEC, SPEC.replace(seed=1), RunSpec("mnist", "resnet50", image_size=8, epochs=3)):
            run = store.create_run(spec)
            for event in events_of(spec, run):
                store.record(event)


@at_every_size
async def test_set_up(size: tuple[int, int], make_app: MakeApp, compare_screen: Compare) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await drawn(pilot)
        compare_screen(app, "setup")


@at_every_size
async def test_train_live(size: tuple[int, int], make_app: MakeApp, compare_screen: Compare) -> None:
    script = ScriptedRun(hold_at=17)
    app = make_app(script)
    async with app.run_test(size=size) as pilot:
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.live and app.live.version == 17)
        await drawn(pilot)
        compare_screen(app, "train")
        script.release.set()
        await until(pilot, lambda: app.live and app.live.over)
        await drawn(pilot)
        compare_screen(app, "train-ended")


@at_every_size
async def test_results_and_an_opened_run(
    size: tuple[int, int], make_app: MakeApp, compare_screen: Compare, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_runs(folders, monkeypatch)
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        compare_screen(app, "results")
        await pilot.press("enter")
        await drawn(pilot)
        compare_screen(app, "run")
        await pilot.press("right")
        await drawn(pilot)
        compare_screen(app, "classes")
        for _ in range(3):
            await pilot.press("right")
        await drawn(pilot)
        compare_screen(app, "run-curves")


@at_every_size
async def test_the_dialogs(size: tuple[int, int], make_app: MakeApp, compare_screen: Compare) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await pilot.press("question_mark")
        await drawn(pilot)
        compare_screen(app, "keys")
        await pilot.press("escape", "end", "enter")
        await pilot.press(*"/nowhere", "enter")
        await pilot.pause()
        compare_screen(app, "folder")
        for key, name in (("o", "choice"), ("A", "number")):
            await pilot.press("escape", "home", key)
            await until(pilot, lambda: app.screen.is_modal)
            await drawn(pilot)
            compare_screen(app, name)
        await pilot.press("escape", "tab", "end", "enter")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press(*"dense")
        await drawn(pilot)
        compare_screen(app, "more-models")


@at_every_size
async def test_choosing_what_to_free(size: tuple[int, int], make_app: MakeApp, compare_screen: Compare) -> None:
    app = make_app()
    names: tuple[HoldingPart, ...] = ("parameters", "gradients", "optimizer")
    parts = tuple((name, 45 * 2**20) for name in names)
    app.session.ledger.hold("a", object(), Holding("model", "resnet18", 1, parts[:1], live=False))
    app.session.ledger.hold("b", object(), Holding("dataset", "mnist", 2, (("dataset", 55 * 2**20),), live=True))
    app.session.ledger.hold("c", object(), Holding("model", "resnet50", 2, parts, live=True))
    async with app.run_test(size=size) as pilot:
        await pilot.press("2", "F")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("end", "space")
        await drawn(pilot)
        compare_screen(app, "free")


@at_every_size
async def test_gradients(size: tuple[int, int], make_app: MakeApp, compare_screen: Compare) -> None:
    stages = ("stem", "layer1", "layer2", "layer3", "layer4", "fc")
    measured = GradientsMeasured(1, 24, stages, (0.4, 0.2, 0.09, 0.05, 0.02, 0.6), (1e-3, 2e-3, 1e-3, 8e-4, 5e-4, 4e-3))
    script = ScriptedRun(hold_at=9, events=[*events_of(SPEC)[:8], measured, *events_of(SPEC)[8:]])
    app = make_app(script)
    async with app.run_test(size=size) as pilot:
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.live and app.live.version == 9)
        await pilot.press("g")
        await drawn(pilot)
        compare_screen(app, "gradients")
        script.release.set()
        await until(pilot, lambda: app.live and app.live.over)


@at_every_size
async def test_looking_at_mistakes(
    size: tuple[int, int], make_app: MakeApp, compare_screen: Compare, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_runs(folders, monkeypatch)
    write_manifest(
        folders.run_folder(3) / MANIFEST_NAME,
        [
            FileRecord("Cat/666.jpg", "", "cat", "unusable", "empty"),
            FileRecord("Dog/11702.jpg", "", "dog", "unusable", "damaged (image file is truncated)"),
            FileRecord("Cat/1.jpg", "", "cat", "train", None),
        ],
    )
    ramp = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    images = np.stack([np.roll(ramp * 4, shift, 2) for shift in range(30)])
    mistakes = [Mistake(index, index % 2, 1 - index % 2, 0.99 - index / 100) for index in range(30)]
    monkeypatch.setattr("engine.lab.Lab.mistakes", lambda *arguments: (mistakes, images))
    guesses = tuple(Guess(name, share) for name, share in (("dog", 0.83), ("cat", 0.17)))
    monkeypatch.setattr("engine.lab.Lab.predict_picture", lambda *arguments: (guesses, images[3]))
    monkeypatch.chdir(folders.home.parent)
    app = make_app()
    relative = Folders(home=Path(folders.home.name), data=folders.data, cache=folders.cache)  # the same path everywhere
    app.state.settings = replace(app.state.settings, folders=relative)
    async with app.run_test(size=size) as pilot:
        app.open_run(3)
        await drawn(pilot)
        await pilot.press("right", "right", "down")
        await drawn(pilot)
        compare_screen(app, "confusion")
        await pilot.press("enter")
        await until(pilot, lambda: "cat classified as dog" in text_of(app) and "▀" in text_of(app))
        compare_screen(app, "mistakes")
        await pilot.press("right", "right")
        await drawn(pilot)
        compare_screen(app, "files")
        app.screen._details = replace(app.screen._details, weights=WeightsRecord("step.safetensors", "0" * 64, 1, 1, 1))  # type: ignore[attr-defined]
        await pilot.press("p", *"a.jpg", "enter")
        await until(pilot, lambda: "83.0 %" in text_of(app))
        compare_screen(app, "predict")


class MapApp(App[None]):
    def compose(self) -> ComposeResult:
        yield ConfusionMap("map")


@at_every_size
async def test_a_hundred_classes(size: tuple[int, int], compare_screen: Compare) -> None:
    """The figures of a made-up classifier of 100 classes, 100 images each, that confuses neighbours."""
    draws = np.random.default_rng(0)
    counts = [
        np.bincount(np.clip(np.round(draws.normal(i, 1.2, 100)), 0, 99).astype(int), minlength=100) for i in range(100)
    ]
    app = MapApp()
    async with app.run_test(size=size) as pilot:
        app.query_one(ConfusionMap).show([f"class {i}" for i in range(100)], [row.tolist() for row in counts])
        app.query_one(ConfusionMap).focus()
        await pilot.press("n", "n")
        await pilot.pause()
        compare_screen(app, "hundred-classes")
