"""What older versions wrote is read for ever, what newer ones wrote is refused with a sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.analysis.comparison import differing_settings
from engine.errors import CheckpointError
from engine.spec import RunSpec
from engine.training import checkpoint
from engine.training.checkpoint import load_checkpoint, write_checkpoint
from engine.training.position import EpochSums, MemoryState, Position

POSITION = Position(7, 1, True, 896, 1.5, 2.25, EpochSums(128, 0.1, 64, 1.25), MemoryState(32, True, calm_steps=3))


def written(folder: Path, header: dict[str, Any]) -> dict[str, Any]:
    saved = write_checkpoint(folder, {"model.weight": torch.zeros(2)}, header)
    return load_checkpoint(folder / saved.name, saved.sha256).header


def test_a_position_comes_back_as_it_was(tmp_path: Path) -> None:
    header = written(tmp_path, {**POSITION.to_dict(), "spec": {"model": "resnet20"}})
    assert header["format"] == checkpoint.FORMAT
    assert Position.from_dict(header) == POSITION


@pytest.mark.parametrize("part", [None, "epoch", "memory"])
def test_a_checkpoint_from_before_a_field_was_there_has_its_default(part: str | None) -> None:
    """Every field but the step was new once."""
    values = POSITION.to_dict()
    fields = dataclasses.fields(Position if part is None else type(getattr(POSITION, part)))
    for item in fields:
        if item.name in ("step", "epoch", "memory"):
            continue
        older = {**values, **({} if part is None else {part: dict(values[part])})}
        del (older if part is None else older[part])[item.name]
        found = Position.from_dict(older)
        assert getattr(found if part is None else getattr(found, part), item.name) == item.default
        assert found.step == 7


@pytest.mark.parametrize("values", [{}, {"step": 3}, {**POSITION.to_dict(), "epoch": 4}])
def test_one_that_does_not_say_where_its_run_stood_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="does not say where its run stood"):
        Position.from_dict(values)


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    saved = write_checkpoint(tmp_path, {"model.weight": torch.zeros(2)}, POSITION.to_dict())
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(CheckpointError, match="has checkpoint format 2, this reslab reads formats up to 1; update"):
        load_checkpoint(tmp_path / saved.name, saved.sha256)


def test_a_run_from_before_a_setting_was_there_does_not_differ_in_it() -> None:
    newer = RunSpec("digits", "resnet20", learning_rate=0.1).to_dict()
    older = {name: value for name, value in newer.items() if name not in ("compile", "checkpoint_every")}
    assert differing_settings([older, newer]) == {}
    assert differing_settings([older, {**newer, "compile": True}]) == {"compile": (False, True)}
    gone = {**older, "a_setting_that_is_gone": 3}
    assert differing_settings([gone, newer]) == {"a_setting_that_is_gone": (3, None)}
