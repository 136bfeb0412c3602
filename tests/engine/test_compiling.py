"""--compile: paid for before the first step, and no other run than without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.events import DatasetProgressed, Evaluated, Event, RunEnded, StepsCompleted
from engine.lab import Lab
from engine.paths import Folders
from engine.spec import RunSpec

SPEC = RunSpec("digits", "resnet20", epochs=1)


def collect(folders: Folders, spec: RunSpec) -> list[Event]:
    return list(Lab(folders).train(spec).events())


def ended(events: list[Event]) -> RunEnded:
    assert isinstance(events[-1], RunEnded)
    return events[-1]


@pytest.mark.slow
def test_a_compiled_run_is_the_plain_one_and_compiles_before_it(folders: Folders) -> None:
    plain = collect(folders, SPEC)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    seen: list[int] = []
    compiled = []
    for event in Lab(folders).train(SPEC.replace(compile=True)).events():
        compiled.append(event)
        if isinstance(event, StepsCompleted | Evaluated):
            seen.append(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)
    assert seen[0] > 0
    assert len(set(seen)) == 1  # nothing is compiled after the first step
    told = [event for event in compiled if isinstance(event, DatasetProgressed) and event.stage == "compile"]
    assert [event.done for event in told] == list(range(told[0].total))
    losses = [
        [loss for event in events if isinstance(event, StepsCompleted) for loss in event.losses]
        for events in (plain, compiled)
    ]
    assert losses[1][:4] == pytest.approx(losses[0][:4], rel=1e-3)  # later ones drift apart, as any rounding does
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert ended(compiled).status == "completed"


def test_what_cannot_be_compiled_is_one_sentence(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, *arguments: Any, **more: Any) -> None:
        raise RuntimeError("no compiler was found")

    monkeypatch.setattr("engine.training.compiling.pass_through", refuse)
    end = ended(collect(folders, SPEC.replace(compile=True)))
    assert end.status == "failed"
    assert end.error == "torch cannot compile resnet20 here (RuntimeError, details in reslab.log); leave --compile out"
