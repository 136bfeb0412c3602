"""One of several processes cannot begin, is asked to stop or runs out of memory: all of them end, and say why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from engine.control import RunControl
from engine.data.batches import Preparation
from engine.errors import DatasetError
from engine.progress import LoadingStopped
from engine.training.data_parallel import WorkerGroup, follow
from engine.training.loop import train
from engine.training.setup import set_up
from tests.engine.test_crew import SPEC, folders_in, in_processes
from tests.fakes import drain
from tests.running import context_of


def work(rank: int, port: int, who: int, what: str, folder: Path, results: Any) -> None:
    """One of two processes; `what` befalls process `who`."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RESLAB_TUNE="0")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    control, count = RunControl(), 0
    prepare = Preparation.__call__

    def run_out(self: Preparation, images: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return prepare(self, images)

    if rank == who and what == "stop":
        control.stop("the battery is empty")
        patch("engine.training.setup.load_images", side_effect=LoadingStopped).start()
    if rank == who and what == "images":
        patch("engine.training.setup.load_images", side_effect=DatasetError("the disk is gone")).start()
    if rank == who and what == "memory":
        patch.object(Preparation, "__call__", run_out).start()
    try:
        results.put((rank, carry_out(WorkerGroup.assemble(), control, folder)))
    except Exception as error:
        results.put((rank, (type(error).__name__, str(error))))


def carry_out(group: WorkerGroup, control: RunControl, folder: Path) -> tuple[str, str]:
    folders = folders_in(folder)
    if group.is_rank_zero:
        _, ending = drain(train(SPEC, context_of(SPEC, folders, control, group)))
        return ending.status, str(ending.error)
    _, setup = drain(set_up(SPEC, context_of(SPEC, folders, control, group)))
    follow(setup, group)
    return "left", ""


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_what_keeps_one_from_beginning_is_heard_by_the_other(who: int, tmp_path: Path) -> None:
    found = in_processes(2, work, who, "images", tmp_path)
    assert found[who] == ("DatasetError", "the disk is gone")
    assert found[1 - who] == ("ClusterError", "the disk is gone")


@pytest.mark.slow
def test_a_stop_while_images_are_loaded_ends_both(tmp_path: Path) -> None:
    first, second = in_processes(2, work, 0, "stop", tmp_path)
    assert first == ("stopped", "the battery is empty")
    assert second[0] == "LoadingStopped"


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_step_that_does_not_fit_is_a_sentence_and_not_tried_alone(who: int, tmp_path: Path) -> None:
    found = in_processes(2, work, who, "memory", tmp_path)
    assert found[who][0] == "MemoryShortageError"
    assert found[who][1].startswith(f"memory ran out on worker {who + 1} of 2 with its part of a batch of 128 images;")
    assert found[1 - who][0] != "completed"
