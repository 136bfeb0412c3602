"""Several processes make one run: the same losses as one process, however the batches divide."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import nn

from engine.control import RunControl
from engine.data.batches import Preparation
from engine.events import Evaluated, Event, RunStarted, StepsCompleted
from engine.models.building import build_model
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.training.data_parallel import WorkerGroup, follow
from engine.training.loop import Ending, train
from engine.training.setup import set_up
from tests.fakes import drain
from tests.running import context_of
from tests.waiting import join, until

# At the default learning rate the rounding of a second thread alone moves a loss by 6e-4 within the epoch.
SPEC = RunSpec("digits", "resnet20", epochs=1, norm="group", dtype="float32", learning_rate=0.001)


def folders_in(folder: Path) -> Folders:
    return Folders(folder / "home", folder / "data", folder / "cache")


def alone(spec: RunSpec, folder: Path) -> list[Event]:
    events, ending = drain(train(spec, context_of(spec, folders_in(folder))))
    assert ending.status == "completed"
    return events


@dataclass(frozen=True, slots=True)
class Trial:
    """What a group is to do: stop from step `stop_at` on, meet a bad loss at step `poisoned`, compute in float64."""

    size: int
    spec: RunSpec
    folder: Path
    stop_at: int = 10**9
    poisoned: int = 0
    sync_batchnorm: bool = False
    wide: bool = False


def work(rank: int, port: int, trial: Trial, results: Any) -> None:
    """One process of a group, on two machines as it were told."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RESLAB_TUNE="0")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=trial.size)
    with in_float64() if trial.wide else nullcontext():
        results.put((rank, carry_out(WorkerGroup.assemble(2, trial.sync_batchnorm), trial)))


def carry_out(group: WorkerGroup, trial: Trial) -> tuple[list[Event], Ending] | str:
    spec, folders, control = trial.spec, folders_in(trial.folder), RunControl()
    if not group.is_rank_zero:
        _, setup = drain(set_up(spec, context_of(spec, folders, control, group)))
        with spoilt(trial.poisoned):
            follow(setup, group)
        return "left"
    events: list[Event] = []
    training = train(spec, context_of(spec, folders, control, group))
    while True:
        try:
            events.append(next(training))
        except StopIteration as end:
            return events, end.value
        if isinstance(events[-1], StepsCompleted) and events[-1].last_step >= trial.stop_at:
            control.stop()


@contextmanager
def in_float64() -> Iterator[None]:
    """The network computes in float64, so that rounding does not grow to what can be seen within an epoch."""

    def build(spec: RunSpec, shape: DataShape, seeded: bool, load_weights: bool, names: tuple[str, ...]) -> nn.Module:
        network = build_model(spec, shape, seeded, load_weights, names)
        if not seeded:  # the forecast's
            return network
        network.double()
        network.register_forward_pre_hook(lambda module, given: (given[0].double(),))
        return network

    with patch("engine.step.learner.build_model", build):
        yield


@contextmanager
def spoilt(step: int) -> Iterator[None]:
    """This process alone is given pixels that are no numbers, at its step number `step` (0: never)."""
    whole, count = Preparation.__call__, 0

    def prepare(self: Preparation, images: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return whole(self, images) * (float("nan") if count == step else 1.0)

    with patch.object(Preparation, "__call__", prepare):
        yield


def in_processes(size: int, target: Callable[..., None], *arguments: Any) -> list[Any]:
    """What `target(rank, port, *arguments, results)` puts into `results` as (rank, value), in `size` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([target.__module__])
    results = processes.Queue()
    started = [processes.Process(target=target, args=(rank, port, *arguments, results)) for rank in range(size)]
    for process in started:
        process.start()
    found: dict[int, Any] = {}

    def all_told() -> bool:
        while not results.empty():
            rank, value = results.get()
            found[rank] = value
        return len(found) == size

    assert until(all_told, every_s=0.01, lives=lambda: all(process.exitcode in (None, 0) for process in started))
    join(*started)
    assert [process.exitcode for process in started] == [0] * size
    return [found[rank] for rank in range(size)]


def together(trial: Trial) -> tuple[list[Event], Ending]:
    (events, ending), *others = in_processes(trial.size, work, trial)
    assert others == ["left"] * (trial.size - 1)
    return events, ending


def losses(events: list[Event]) -> list[float]:
    return [loss for event in events if isinstance(event, StepsCompleted) for loss in event.losses]


def evaluations(events: list[Event]) -> list[float]:
    """The mean losses, which hang on the running statistics."""
    return [event.metrics.loss for event in events if isinstance(event, Evaluated)]


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        pytest.param(  # three are left at the end: one process has nothing to do
            2, {"batch_size": 717}, marks=pytest.mark.slow
        ),
        pytest.param(2, {}, marks=pytest.mark.slow),
        pytest.param(3, {"flip": True, "crop_padding": 1, "label_smoothing": 0.1}, marks=pytest.mark.slow),
        pytest.param(  # six are left: two each
            3, {"batch_size": 477, "optimizer": "adamw", "learning_rate": 0.0001}, marks=pytest.mark.slow
        ),
    ],
)
def test_the_losses_are_those_of_one_process(size: int, changes: dict[str, Any], tmp_path: Path) -> None:
    spec = SPEC.replace(**changes)
    expected = losses(alone(spec, tmp_path / "alone"))
    events, ending = together(Trial(size, spec, tmp_path / "together"))
    assert ending.status == "completed"
    assert losses(events) == pytest.approx(expected, abs=1e-5)
    assert len(expected) == -(-1437 // spec.batch_size)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(  # one process has nothing to do in the end, and must not count
            {"norm": "batch", "batch_size": 717}, marks=pytest.mark.slow
        ),
        pytest.param({"norm": "batch", "learning_rate": 0.1}, marks=pytest.mark.slow),
        pytest.param({"norm": "batch", "model": "resnet18", "learning_rate": 0.1}, marks=pytest.mark.slow),
        pytest.param({"norm": "group", "learning_rate": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_in_float64_they_are_so_at_every_learning_rate(changes: dict[str, Any], tmp_path: Path) -> None:
    """With batch-norm over all processes too, whose statistics are then those of the whole batch."""
    spec = SPEC.replace(**changes)
    with in_float64():
        expected = alone(spec, tmp_path / "alone")
    events, ending = together(Trial(2, spec, tmp_path / "together", sync_batchnorm=True, wide=True))
    assert ending.status == "completed"
    assert losses(events) == pytest.approx(losses(expected), abs=1e-5)
    for mine, other in zip(evaluations(events), evaluations(expected), strict=True):
        assert mine == pytest.approx(other, abs=1e-5)


@pytest.mark.slow
def test_it_says_who_worked_and_what_batch_norm_saw(tmp_path: Path) -> None:
    events, ending = together(Trial(2, SPEC.replace(norm="batch"), tmp_path, stop_at=1))
    (started,) = (event for event in events if isinstance(event, RunStarted))
    assert started.resolved.workers == "2 workers on 2 machines, batch-norm per worker"
    assert ending.status == "stopped"
    assert 1 <= len(losses(events)) < 12


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_it_for_all(tmp_path: Path) -> None:
    events, ending = together(Trial(2, SPEC, tmp_path, poisoned=5))
    assert ending.status == "diverged"
    assert "not finite at step 5" in str(ending.error)
    assert len(losses(events)) == 4


@pytest.mark.parametrize(("num_images", "size"), [(128, 2), (127, 3), (5, 4), (3, 2), (2, 8), (29, 8)])
def test_parts_cover_a_batch_and_are_never_of_one_image(num_images: int, size: int) -> None:
    parts = [WorkerGroup(rank, size, 1, False, None).part_of(num_images) for rank in range(size)]
    held = [part for part in parts if part != (0, 0)]
    assert [index for start, stop in held for index in range(start, stop)] == list(range(num_images))
    assert min(stop - start for start, stop in held) >= 2
