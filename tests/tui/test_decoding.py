"""A long or large decoding begins only when a person has agreed to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.data import room
from engine.spec import RunSpec
from tests.engine.test_datasets import make_folder
from tests.fakes import ScriptedRun
from tests.tui.conftest import MakeApp, text_of, until
from tui.screens.dialogs import Question


async def test_a_long_decoding_is_asked_about_first(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LONG_S", 0.0)
    root = make_folder(tmp_path / "pets", {"cat": 3, "dog": 3})
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(120, 36)) as pilot:
        app.screen.show_spec(RunSpec(f"folder:{root}", "resnet18"))  # type: ignore[attr-defined]
        await pilot.press("tab", "enter")
        await until(pilot, lambda: isinstance(app.screen, Question))
        asked = " ".join(text_of(app).replace("│", " ").split())
        assert "Decoding 6 images takes about 1 s, once," in asked
        await pilot.press("n")
        await until(pilot, lambda: not app.screen.is_modal)
        assert script.specs == []
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: app.live and app.live.over)
    assert [spec.dataset for spec in script.specs] == [f"folder:{root}"]


async def test_the_plan_says_what_decoding_takes(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESLAB_CACHE_GIB", "0")
    root = make_folder(tmp_path / "pets", {"cat": 3, "dog": 3})
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        app.screen.show_spec(RunSpec(f"folder:{root}", "resnet18"))  # type: ignore[attr-defined]
        await until(pilot, lambda: "they are decoded as they are used" in " ".join(text_of(app).split()))
