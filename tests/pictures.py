"""Takes the README's pictures: the real app, real runs on the digits, this machine's memory.

uv run python -m tests.pictures; uv run --extra cluster python -m tests.pictures takes that of a cluster.
"""

from __future__ import annotations

import asyncio
import tempfile
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

from textual.pilot import Pilot

from engine.cli import main as command_line
from engine.paths import Folders
from engine.spec import RunSpec
from tests.tui.conftest import text_of, until
from tui.app import ReslabApp

PICTURES = Path(__file__).parent / "pictures"
SIZE = (100, 30)


async def take(folders: Folders) -> None:
    app = ReslabApp(folders)

    async def shoot(pilot: Pilot[None], name: str) -> None:
        await pilot.pause(1.2)
        (PICTURES / f"{name}.svg").write_text(app.export_screenshot(title="reslab"), encoding="utf-8")

    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "fits" in text_of(app))
        await shoot(pilot, "set-up")
        await pilot.press("s", "enter", "enter")
        await until(pilot, lambda: app.live and app.live.epoch == 6)
        await shoot(pilot, "train")
        await until(pilot, lambda: app.live and app.live.over)
        await shoot(pilot, "train-ended")
        await pilot.press("enter")
        await shoot(pilot, "run")
        await pilot.press("right", "right", "right")
        await until(pilot, lambda: "1 to " in text_of(app))
        await shoot(pilot, "mistakes")
        await pilot.press("escape")
        await shoot(pilot, "results")
        app.compare((1, 3))
        await until(pilot, lambda: "McNemar" in text_of(app))
        await shoot(pilot, "compare")


async def take_nodes(folders: Folders, address: str) -> None:
    """The live screen of a run that a cluster of two more nodes carries; they are processes of this machine, looked at
    as from another one.
    """
    from engine.launch.backend import Job
    from engine.launch.detached import DetachedProcess, Order
    from engine.launch.ray import Cluster

    order = Order(folders, (Job(RunSpec("digits", "resnet18", epochs=60)),), Cluster(address))
    run = next(DetachedProcess(order).runs())
    app = ReslabApp(folders, attached=run)
    with patch("platform.node", return_value="another"):
        await _shoot_nodes(app)


async def _shoot_nodes(app: ReslabApp) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.live and app.live.epoch >= 25 and "node " in text_of(app))
        await pilot.pause(1.2)
        (PICTURES / "nodes.svg").write_text(app.export_screenshot(title="reslab"), encoding="utf-8")
        app.stop_run()
        await until(pilot, lambda: app.live and app.live.over)


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    if find_spec("ray") is not None:  # with --extra cluster, this one alone
        from engine.launch.ray import require_ray

        require_ray()
        from tests.cluster.nodes import nodes

        with tempfile.TemporaryDirectory() as folder, nodes(2, num_cpus=1) as cluster:
            folders = Folders(Path(folder), Path(folder), Path(folder) / "cache")
            asyncio.run(take_nodes(folders, cluster.address))
        return
    with tempfile.TemporaryDirectory() as folder:
        for model, seed in (("resnet18", "0"), ("resnet18", "1"), ("resnet34", "0")):
            command_line(["--home", folder, "train", "digits", model, "--seed", seed], lambda *_: 0)
        asyncio.run(take(Folders(Path(folder), Path(folder), Path(folder) / "cache")))


if __name__ == "__main__":
    main()
