"""Takes the README's pictures: the real app, real runs on the digits, this machine's memory.

uv run python -m tests.pictures
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from textual.pilot import Pilot

from engine.cli import main as command_line
from engine.paths import Places
from tests.tui.conftest import text_of, until
from tui.app import ReslabApp

PICTURES = Path(__file__).parent / "pictures"
SIZE = (100, 30)


async def take(places: Places) -> None:
    app = ReslabApp(places)

    async def shoot(pilot: Pilot[None], name: str) -> None:
        await pilot.pause(1.2)
        (PICTURES / f"{name}.svg").write_text(app.export_screenshot(title="reslab"), encoding="utf-8")

    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "fits" in text_of(app), 60)
        await shoot(pilot, "set-up")
        await pilot.press("s", "enter", "enter")
        await until(pilot, lambda: app.live and app.live.epoch == 6, 120)
        await shoot(pilot, "train")
        await until(pilot, lambda: app.live and app.live.over, 120)
        await shoot(pilot, "train-ended")
        await pilot.press("enter")
        await shoot(pilot, "run")
        await pilot.press("right", "right", "right")
        await until(pilot, lambda: "1 to " in text_of(app), 40)
        await shoot(pilot, "mistakes")
        await pilot.press("escape")
        await shoot(pilot, "results")
        app.compare((1, 3))
        await until(pilot, lambda: "McNemar" in text_of(app), 60)
        await shoot(pilot, "compare")


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for model, seed in (("resnet18", "0"), ("resnet18", "1"), ("resnet34", "0")):
            command_line(["--home", folder, "train", "digits", model, "--seed", seed], lambda *_: 0)
        asyncio.run(take(Places(Path(folder), Path(folder), Path(folder) / "cache")))


if __name__ == "__main__":
    main()
