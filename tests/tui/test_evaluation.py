"""A run of 0 epochs on every screen that divides by epochs and steps, and what became of its weights in one line."""

from __future__ import annotations

from dataclasses import replace

from engine.events import CheckpointSaved, Event, RunEnded
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import ScriptedRun, evaluated, events_of, metrics, started
from tests.tui.conftest import Compare, MakeApp, at_every_size, drawn, text_of, until

SPEC = RunSpec("digits", "resnet20", epochs=0, weights="/data/resnet20-12fca82f.th")
LINE = (
    "weights resnet20-12fca82f.th (from state_dict, without module.): 97 tensors kept; "
    "fc (linear in the file) kept: 10 classes, names unknown; conv1 3→1 channels, filters summed"
)


def events_of_evaluation(run: int) -> list[Event]:
    return [
        replace(started(SPEC, run), notes=(LINE, "shortcuts padded on both sides: 10 of the 10 batch-norms agree")),
        evaluated(run, 0, 0.91, "final"),
        CheckpointSaved(run, "step-00000000.safetensors", "ab" * 32, 0, 0, 1000),
        RunEnded(run, "completed", None, metrics(0.91), 3.1, None, 0),
    ]


@at_every_size
async def test_an_evaluation_is_shown_with_what_became_of_its_weights(
    size: tuple[int, int], make_app: MakeApp, compare_screen: Compare, folders: Folders
) -> None:
    other = RunSpec("digits", "resnet20")
    with Store(folders.database) as store:
        for spec in (SPEC, other):
            run = store.create_run(spec)
            for event in events_of_evaluation(run) if spec is SPEC else events_of(spec, run):
                store.record(event)
    app = make_app(ScriptedRun(events=events_of_evaluation(1)), specs=(SPEC,))
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.live and app.live.over)
        await drawn(pilot)
        assert app.live is not None
        assert (app.live.steps_per_epoch, app.live.run_share, app.live.epoch_share) == (1, 0.0, 0.0)
        shown = "".join(text_of(app).split())
        assert "".join(LINE.split()) in shown
        assert "evaluated" in shown
        compare_screen(app, "evaluated")
        await pilot.press("enter")
        await drawn(pilot)
        assert "Nothing was trained" in text_of(app)
        assert "untrained" not in text_of(app)
        for _ in range(3):  # Curves, without a step
            await pilot.press("left")
        await drawn(pilot)
        assert "accuracy" in text_of(app)
        app.compare((1, 2))
        await until(pilot, lambda: "91.000 %" in text_of(app))
        await pilot.press("o")
        await drawn(pilot)
        assert "#1" in text_of(app)
