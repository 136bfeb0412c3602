"""The Ray actor that trains one run: a process on a node, with the memory that the run requests.

Ray's scheduler picks the node; an actor that does not fit waits. To be imported after `engine.launch.ray.require_ray`.
"""

from __future__ import annotations

import logging
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError

from engine.control import Control
from engine.device import versions
from engine.errors import ClusterError
from engine.launch.ray import versions_differ
from engine.launch.ray.nodes import gpu_bytes, largest_node
from engine.launch.ray.request import Request, request_for
from engine.launch.ray.task import Task, errors_reported, this_worker, train_task

MAX_LOSSES = 8  # of workers or nodes; each time the run resumes from its newest checkpoint
_LISTEN_S = 0.1
_log = logging.getLogger("reslab")


class TrainActor:
    """Made by `ray.remote` with a request's options."""

    def __init__(self, request: Request) -> None:
        self._bound_bytes = request.bound
        torch.set_num_threads(max(int(request.cpus), 1))

    def check(self, versions_there: dict[str, str]) -> str | None:
        """A sentence if this node's versions differ from the driver's."""
        return versions_differ(versions_there, versions())

    def train(self, task: Task) -> None:
        """Train the run from its newest checkpoint; its events go to the task's channel."""
        with errors_reported(task):
            train_task(task, this_worker(), self._bound_bytes)


def request_actor(request: Request) -> Any:
    """Request an actor. It is running once its first call returns; until then it waits for room."""
    return ray.remote(TrainActor).options(**request.options()).remote(request)


def train_in_actor(task: Task, actor: Any, use_gpu: bool, control: Control) -> bool:
    """Train with one worker: in `actor`, which is kept, or in a new one, and in another one if that is lost. False if
    the run was stopped while it had no actor.

    Raises:
        ClusterError: the worker was lost too often, or the node has other versions.
        RayError: the worker failed.
    """
    given, shares = actor, actor is not None  # a run that comes with an actor shares the cluster with others
    for _ in range(MAX_LOSSES + 1):
        if actor is None:
            cores, memory = largest_node(use_gpu)
            request = request_for(
                task.spec, gpu_bytes() if use_gpu else None, memory, 1.0 if shares else cores, task.folders
            )
            actor = request_actor(request)
        try:
            check = actor.check.remote(versions())
            while not ray.wait([check], timeout=_LISTEN_S)[0]:
                if control.stop_requested:
                    return False
            if (problem := ray.get(check)) is not None:
                raise ClusterError(problem)
            ray.get(actor.train.remote(task))
            return True
        except RayActorError:
            _log.warning("the worker of run %d was lost", task.run, exc_info=True)
            given = None
        finally:
            if actor is not given:
                ray.kill(actor)
            actor = None
    raise ClusterError(f"the run's worker was lost {MAX_LOSSES + 1} times; reslab resume {task.run} continues the run")
