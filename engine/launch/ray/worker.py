"""One of several workers of a run on Ray: rank zero trains and sends events, the others follow. Called by Ray Train."""

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
_POLL_EVERY_S = 0.5


def work(config: dict[str, Any]) -> None:
    """Train the run together with the other workers, from its newest checkpoint."""
    task: Task = config["task"]
    with errors_reported(task):
        group = _assemble(task)
        if group.is_rank_zero:
            train_task(task, group)
            return
        with suppress(LoadingStopped):
            with _stop_listener(task) as control:
                with group.starting():
                    context = task.context(control, group, resume_point_of(task))
                setup = _result(set_up(task.spec, context))
            follow(setup, group)


def _assemble(task: Task) -> WorkerGroup:
    context = ray.train.get_context()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(cores // context.get_local_world_size(), 1))
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, (ray.get_runtime_context().get_node_id(), versions()))
    nodes = {node for node, _ in found}
    for _, there in found:
        if (problem := versions_differ(found[0][1], there)) is not None:
            raise ClusterError(problem)
    device = ray.train.torch.get_device()
    return WorkerGroup.assemble(len(nodes), task.sync_batchnorm, device if device.type == "cuda" else None)


@contextmanager
def _stop_listener(task: Task) -> Iterator[RunControl]:
    """A control that receives a stop while images are loaded; after that, rank zero receives it for all."""
    control, is_done = RunControl(), threading.Event()

    def listen() -> None:
        while not is_done.wait(_POLL_EVERY_S):
            with suppress(RayError):
                request: ControlRequest = ray.get(task.channel.pending_request.remote(task.run))
                if request.stop:
                    control.stop(request.reason)

    thread = threading.Thread(target=listen, name="requests", daemon=True)
    thread.start()
    try:
        yield control
    finally:
        is_done.set()
        thread.join()


def _result(work: Generator[Any, None, T]) -> T:
    """What a generator returns. Its events are dropped: rank zero sends them."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
