"""A seat on a cluster: a process on one of its nodes, with the share of memory that one run asks for.

Ray's own scheduler finds the node: what does not fit waits. To be imported after `engine.launch.ray.require_ray`.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError

from engine.control import Control
from engine.device import versions
from engine.environment import MEMORY_GIB
from engine.errors import ClusterError
from engine.launch.ray import versions_differ
from engine.launch.ray.nodes import gpu_bytes, largest_node
from engine.launch.ray.request import Request, request_for
from engine.launch.ray.task import Task, errors_reported, this_worker, train_task

MAX_LOSSES = 8  # of workers or nodes: each time the run goes on from its newest checkpoint
_LISTEN_S = 0.1
_log = logging.getLogger("reslab")


class Seat:
    """Made by `ray.remote` with a request's options."""

    def __init__(self, request: Request) -> None:
        if request.bound is not None:
            os.environ[MEMORY_GIB.name] = str(request.bound / 2**30)
        torch.set_num_threads(max(int(request.cpus), 1))

    def check(self, versions_there: dict[str, str]) -> str | None:
        """Where the versions are others than the driver's, a sentence."""
        return versions_differ(versions_there, versions())

    def train(self, task: Task) -> None:
        """Make the run, from its newest checkpoint on; its events go to the task's exchange."""
        with errors_reported(task):
            train_task(task, this_worker())


def request_actor(request: Request) -> Any:
    """Ask for a seat. It is there when its first call returns; until then it waits for room."""
    return ray.remote(Seat).options(**request.options()).remote(request)


def train_in_actor(task: Task, seat: Any, use_gpu: bool, control: Control) -> bool:
    """One worker's work, in `seat`, which stays, or one that is waited for; where it is lost, in another one. False
    where a stop was asked for while there was none.

    Raises:
        ClusterError: it was lost too often, or the node has other versions.
        RayError: the worker failed.
    """
    given, shares = seat, seat is not None  # a run that came to a seat is one of several side by side
    for _ in range(MAX_LOSSES + 1):
        if seat is None:
            cores, memory = largest_node(use_gpu)
            request = request_for(
                task.spec, gpu_bytes() if use_gpu else None, memory, 1.0 if shares else cores, task.folders
            )
            seat = request_actor(request)
        try:
            there = seat.check.remote(versions())
            while not ray.wait([there], timeout=_LISTEN_S)[0]:
                if control.stop_requested:
                    return False
            if (problem := ray.get(there)) is not None:
                raise ClusterError(problem)
            ray.get(seat.train.remote(task))
            return True
        except RayActorError:
            _log.warning("the worker of run %d was lost", task.run, exc_info=True)
            given = None
        finally:
            if seat is not given:
                ray.kill(seat)
            seat = None
    raise ClusterError(f"the run's worker was lost {MAX_LOSSES + 1} times; it can go on with reslab resume {task.run}")
