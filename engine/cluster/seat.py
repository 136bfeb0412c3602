"""A seat on a cluster: a process on one of its nodes, with the share of memory that one run asks for.

Ray's own scheduler finds the node: what does not fit waits. To be imported after `engine.cluster.require_ray`.
"""

from __future__ import annotations

import os
from typing import Any

import ray
import torch

from engine.cluster import versions_differ
from engine.cluster.request import Request
from engine.cluster.task import Task, sentences_told, train_task
from engine.device import versions
from engine.memory.room import BOUND_VARIABLE


class Seat:
    """Made by `ray.remote` with a request's options."""

    def __init__(self, request: Request) -> None:
        os.environ[BOUND_VARIABLE] = str(request.bound / 2**30)
        torch.set_num_threads(max(int(request.cpus), 1))

    def check(self, versions_there: dict[str, str]) -> str | None:
        """Where the versions are others than the driver's, a sentence."""
        return versions_differ(versions_there, versions())

    def train(self, task: Task) -> None:
        """Make the run, from its newest checkpoint on; its events go to the task's exchange."""
        with sentences_told(task):
            train_task(task, None)


def take_seat(request: Request) -> Any:
    """Ask for a seat. It is there when its first call returns; until then it waits for room."""
    return ray.remote(Seat).options(**request.options()).remote(request)
