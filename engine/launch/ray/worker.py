"""One of several workers of a run on Ray: the first trains and tells, the others follow. Ray Train calls it in each."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.exceptions import RayError

from engine.control import RunControl
from engine.device import versions
from engine.errors import ClusterError
from engine.launch.ray import versions_differ
from engine.launch.ray.task import Task, errors_reported, resume_point_of, train_task
from engine.launch.requests import ControlRequest
from engine.progress import LoadingStopped
from engine.training.data_parallel import WorkerGroup, follow
from engine.training.setup import set_up

T = TypeVar("T")
_HEAR_EVERY_S = 0.5


def work(config: dict[str, Any]) -> None:
    """Make the run with other workers, from its newest checkpoint on."""
    task: Task = config["task"]
    with errors_reported(task):
        group = _assemble(task)
        if group.is_rank_zero:
            train_task(task, group)
            return
        with suppress(LoadingStopped):
            with _hearing(task) as control:
                with group.starting():
                    context = task.context(control, group, resume_point_of(task))
                setup = _drained(set_up(task.spec, context))
            follow(setup, group)


def _assemble(task: Task) -> WorkerGroup:
    context = ray.train.get_context()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(cores // context.get_local_world_size(), 1))
    here: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(here, (ray.get_runtime_context().get_node_id(), versions()))
    nodes = {node for node, _ in here}
    for _, found in here:
        if (problem := versions_differ(here[0][1], found)) is not None:
            raise ClusterError(problem)
    device = ray.train.torch.get_device()
    return WorkerGroup.assemble(len(nodes), task.sync_batchnorm, device if device.type == "cuda" else None)


@contextmanager
def _hearing(task: Task) -> Iterator[RunControl]:
    """A control that hears of a stop while images are loaded; later the first worker hears for all."""
    control, over = RunControl(), threading.Event()

    def listen() -> None:
        while not over.wait(_HEAR_EVERY_S):
            with suppress(RayError):
                asked: ControlRequest = ray.get(task.channel.asked.remote(task.run))
                if asked.stop:
                    control.stop(asked.reason)

    thread = threading.Thread(target=listen, name="asked", daemon=True)
    thread.start()
    try:
        yield control
    finally:
        over.set()
        thread.join()


def _drained(work: Generator[Any, None, T]) -> T:
    """What a generator returns; what it yields, the first worker tells of."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            done: T = end.value
            return done
