"""The parts of the cluster code that need no Ray: the event channel, the token, and the check of versions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.events import CheckpointSaved, Event, RunStarted, StepsCompleted
from engine.launch.ray import require_ray, versions_differ
from engine.launch.ray.channel import EventChannel, ResumePoint
from engine.launch.requests import ControlRequest
from engine.spec import RunSpec
from tests.fakes import events_of

EVENTS = events_of(RunSpec("digits", "resnet18"))
STEPS = [event for event in EVENTS if isinstance(event, StepsCompleted)]
SAVED = CheckpointSaved(1, "step-00000012.safetensors", "ab", 1, 12, 1000)


async def opened() -> EventChannel:
    channel = EventChannel()
    await channel.open(1, ResumePoint())
    return channel


async def taken(channel: EventChannel) -> Sequence[Event]:
    return await channel.take(1, 0.05)


async def test_events_are_taken_once_and_in_order() -> None:
    channel = await opened()
    ticket, _ = await channel.register(1)
    await channel.send(1, ticket, 1, [STEPS[0]])
    await channel.send(1, ticket, 2, [STEPS[1]])
    assert await taken(channel) == STEPS[:2]
    assert await taken(channel) == []


async def test_a_batch_that_comes_twice_is_taken_once() -> None:
    channel = await opened()
    ticket, _ = await channel.register(1)
    for _ in range(2):
        await channel.send(1, ticket, 1, [STEPS[0]])
    await channel.send(1, ticket, 2, [STEPS[1]])
    assert await taken(channel) == STEPS[:2]


async def test_a_replaced_worker_is_stopped_and_adds_nothing() -> None:
    channel = await opened()
    first, _ = await channel.register(1)
    await channel.send(1, first, 1, [STEPS[0]])
    second, _ = await channel.register(1)
    assert await channel.send(1, first, 2, [STEPS[1]]) == ControlRequest(stop=True)
    assert await channel.send(1, second, 1, [STEPS[2]]) == ControlRequest()
    assert await taken(channel) == [STEPS[0], STEPS[2]]


async def test_a_new_worker_resumes_from_the_newest_checkpoint() -> None:
    channel = await opened()
    ticket, newest = await channel.register(1)
    assert newest == ResumePoint()
    started = next(event for event in EVENTS if isinstance(event, RunStarted))
    await channel.send(1, ticket, 1, [started, SAVED])
    assert (await channel.register(1))[1] == ResumePoint(started, SAVED.file, SAVED.sha256)


async def test_a_request_is_pending_until_the_run_is_closed() -> None:
    channel = await opened()
    ticket, _ = await channel.register(1)
    await channel.send_request(1, ControlRequest(pause=True))
    assert await channel.send(1, ticket, 1, []) == await channel.pending_request(1) == ControlRequest(pause=True)
    await channel.close(1)
    assert await channel.send(1, ticket, 2, [STEPS[0]]) == await channel.pending_request(1) == ControlRequest(stop=True)
    await channel.fail(1, STEPS[0])  # nobody receives it


async def test_the_driver_waits_for_events() -> None:
    channel = await opened()
    ticket, _ = await channel.register(1)
    waiting = asyncio.create_task(channel.take(1, 20.0))
    await asyncio.sleep(0)
    await channel.send(1, ticket, 1, [STEPS[0]])
    assert await asyncio.wait_for(waiting, 5.0) == [STEPS[0]]


@pytest.mark.parametrize("where", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "home", "nowhere", "named file is missing"])
def test_a_token_is_used_wherever_ray_finds_one(where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray itself asks for none when it is given an address."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("engine.launch.ray.find_spec", lambda name: name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    match where:
        case "RAY_AUTH_TOKEN":
            monkeypatch.setenv(where, "0" * 64)
        case "RAY_AUTH_TOKEN_PATH":
            (tmp_path / "token").write_text("0" * 64)
            monkeypatch.setenv(where, str(tmp_path / "token"))
        case "home" | "named file is missing":
            (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
            if where != "home":
                monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    require_ray()
    found = os.environ.pop("RAY_AUTH_MODE", None)
    assert found == ("token" if where in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "home") else None)


def test_what_a_person_asks_of_ray_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.launch.ray.find_spec", lambda name: name)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    require_ray()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_versions_that_differ_are_refused_by_name() -> None:
    mine = {"python": "3.12.1", "torch": "2.15.0"}
    assert versions_differ(mine, dict(mine)) is None
    said = versions_differ(mine, {**mine, "torch": "2.11.0"})
    assert said is not None
    assert "torch 2.11.0 and 2.15.0" in said
