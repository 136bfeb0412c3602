"""The processes that make one run's steps together. `Solo` is the group of one; `data_parallel` has the larger ones."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from engine.device import Placement
from engine.step.learner import Learner


class Group(Protocol):
    """This process's place among those that share one run.

    `is_rank_zero`: it runs the training loop, and the others follow its orders. `adapts`: it may choose its own way of
    computing (threads, measured precision, a compiled or captured step, micro-batches), since no other process has to
    do the same at the same moment. `sync_batchnorm`: batch-norm sees the parts of all processes.
    """

    @property
    def is_rank_zero(self) -> bool: ...

    @property
    def adapts(self) -> bool: ...

    @property
    def sync_batchnorm(self) -> bool: ...

    def placed(self, placement: Placement) -> Placement:
        """`placement` on this process's own device."""
        ...

    def share_of(self, batch_size: int) -> int:
        """The most images of a batch that one process computes on."""
        ...

    def describe(self, model: nn.Module) -> str:
        """How many processes, where, and what batch-norm sees, for a person; "" for the process of the lab itself."""
        ...

    def starting(self) -> AbstractContextManager[None]:
        """Around what is done before the first `barrier`: if it fails here, the others end as well."""
        ...

    def barrier(self) -> None:
        """Wait until every process is ready for the first step. Raises what stopped another one."""
        ...

    def join(self, learner: Learner) -> Learner:
        """The learner that computes this process's part of each gradient."""
        ...

    def announce_step(self, epoch: int, number: int, rate: float) -> None:
        """From rank zero: everybody makes step `number` (from 0) of `epoch` at this learning rate."""
        ...

    def shutdown(self) -> None:
        """From rank zero: the run is over, however it ended."""
        ...


@dataclass(frozen=True, slots=True)
class Solo:
    """One process, which shares nothing. `workers` as in `Resolved`, where that process is not the lab's own."""

    workers: str = ""
    is_rank_zero: bool = True
    adapts: bool = True
    sync_batchnorm: bool = False

    def placed(self, placement: Placement) -> Placement:
        return placement

    def share_of(self, batch_size: int) -> int:
        return batch_size

    def describe(self, model: nn.Module) -> str:
        return self.workers

    def starting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def barrier(self) -> None:
        """Nobody to wait for."""

    def join(self, learner: Learner) -> Learner:
        return learner

    def announce_step(self, epoch: int, number: int, rate: float) -> None:
        """Nobody to tell."""

    def shutdown(self) -> None:
        """Nobody to tell."""
