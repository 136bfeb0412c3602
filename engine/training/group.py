"""The processes that compute one run's steps together. `Solo` is a single process; larger groups are in
`data_parallel`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from engine.device import Placement
from engine.step.learner import Learner


class Group(Protocol):
    """This process's place among those that share one run.

    `is_rank_zero`: it runs the training loop and announces each step to the others. `adapts`: it may choose how it
    computes (threads, measured precision, a compiled or captured step, micro-batches), since no other process has to do
    the same at the same moment. `sync_batchnorm`: batch-norm sees the parts of all processes.
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
        """The largest part of a batch that one process computes."""
        ...

    def describe(self, model: nn.Module) -> str:
        """For display: how many processes, where, and what batch-norm sees; "" for the lab's own process."""
        ...

    def starting(self) -> AbstractContextManager[None]:
        """Around the setup before the first `barrier`: if it fails here, the other ranks end as well."""
        ...

    def barrier(self) -> None:
        """Wait until every process is ready for the first step. Raises what stopped another one."""
        ...

    def join(self, learner: Learner) -> Learner:
        """The learner that computes this process's part of each gradient."""
        ...

    def announce_step(self, epoch: int, number: int, rate: float) -> None:
        """From rank zero: all ranks execute step `number` (from 0) of `epoch` at this learning rate."""
        ...

    def shutdown(self) -> None:
        """From rank zero: end the run on all ranks."""
        ...


@dataclass(frozen=True, slots=True)
class Solo:
    """A single process. `workers` as in `Resolved`, if it is not the lab's own process."""

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
        """No other process to wait for."""

    def join(self, learner: Learner) -> Learner:
        return learner

    def announce_step(self, epoch: int, number: int, rate: float) -> None:
        """No other process."""

    def shutdown(self) -> None:
        """No other process."""
