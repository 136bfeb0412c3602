"""Several processes compute one run's steps together, each on its part of every batch.

Rank zero runs the training loop and announces each step; the other ranks wait for announcements and execute them. So
whatever the loop decides by the clock or by a key press is decided once, and only rank zero evaluates or saves. torch's
DistributedDataParallel averages gradients during the backward pass; the losses are weighted so that the result is the
gradient of the whole batch's mean loss. Batch-norm sees each part on its own, or all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from engine.catalog.models import find_model
from engine.data.batches import epoch_order, step_seed
from engine.data.feeding import Batch, feed
from engine.device import Placement
from engine.errors import ClusterError, MemoryShortageError, ReslabError
from engine.memory.out_of_memory import is_out_of_memory
from engine.progress import LoadingStopped
from engine.step.batchnorm import SharedBatchNorm, shared_norms
from engine.step.learner import MIN_MICRO_BATCH, Learner
from engine.step.optim import set_learning_rate
from engine.text import counted
from engine.training.setup import Setup

_TIMEOUT = timedelta(days=30)  # a run may be paused for long while the other ranks wait
_SHUTDOWN_TIMEOUT = timedelta(seconds=10)
_SHUTDOWN = -1.0  # in place of an epoch


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """This process's place among a run's workers. `control_group` is a process group on the CPU, `on_nodes` the number
    of machines, `device` this process's GPU, or None on a processor.

    A default process group must have been set up: gloo for processors, NCCL for GPUs.
    """

    rank: int
    size: int
    on_nodes: int
    sync_batchnorm: bool
    control_group: Any
    device: torch.device | None = None

    @classmethod
    def assemble(
        cls, on_nodes: int = 1, sync_batchnorm: bool = False, device: torch.device | None = None
    ) -> WorkerGroup:
        control_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        return cls(dist.get_rank(), dist.get_world_size(), on_nodes, sync_batchnorm, control_group, device)

    def placed(self, placement: Placement) -> Placement:
        """On this process's own GPU."""
        return placement if self.device is None else replace(placement, device=self.device)

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    def describe(self, model: nn.Module) -> str:
        """For display: how many, where, and what batch-norm sees, if `model` has any."""
        nodes = "one machine" if self.on_nodes == 1 else counted(self.on_nodes, "machine")
        sees = ""
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            sees = f", batch-norm {'over all of them' if self.sync_batchnorm else 'per worker'}"
        return f"{counted(self.size, 'worker')} on {nodes}{sees}"

    def join(self, learner: Learner) -> Learner:
        """The learner that computes this process's part of each gradient."""
        own = {item.name: getattr(learner, item.name) for item in fields(Learner)}
        on_gpu = learner.placement.device.type == "cuda"
        devices = [learner.placement.device] if on_gpu else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # renamed in torch 2.15; 2.11 has only this name
            # Each rank keeps its own statistics; only rank zero's are used.
            network = DistributedDataParallel(
                learner.model, device_ids=devices, broadcast_buffers=False,
                find_unused_parameters=find_model(learner.spec.model).is_whole,
            )  # fmt: skip
        return DataParallelLearner(**own, network=network, group=self, norms=shared_norms(learner.model))

    def part_of(self, num_images: int) -> tuple[int, int]:
        """Bounds of this process's part of a batch; (0, 0) if the batch is too small to give it one."""
        num_parts = max(min(self.size, num_images // MIN_MICRO_BATCH), 1)
        if self.rank >= num_parts:
            return 0, 0
        return num_images * self.rank // num_parts, num_images * (self.rank + 1) // num_parts

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all ranks, on the device, without synchronising."""
        dist.all_reduce(values)
        return values

    @property
    def adapts(self) -> bool:
        return False

    def share_of(self, batch_size: int) -> int:
        return -(-batch_size // self.size)

    def barrier(self, error: ReslabError | LoadingStopped | None = None) -> None:
        """Wait until all ranks are ready for their first step together; `error` reports that this one never will be.

        Raises:
            ClusterError, LoadingStopped: another rank failed or stopped; the reason.
        """
        problem = None if error is None else "" if isinstance(error, LoadingStopped) else str(error)
        found: list[str | None] = [None] * self.size
        dist.all_gather_object(found, problem, self.control_group)
        problem = next((reason for reason in found if reason is not None), None)
        if error is None and problem is not None:
            raise ClusterError(problem) if problem else LoadingStopped

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Around the setup before the first `barrier`: if it fails, the other ranks learn of it."""
        try:
            yield
        except (ReslabError, LoadingStopped) as error:
            self.barrier(error)
            raise

    def announce_step(self, epoch: int, number: int, rate: float) -> None:
        """Make every rank execute step `number` (from 0) of `epoch` at this learning rate."""
        dist.broadcast(torch.tensor((float(epoch), float(number), rate), dtype=torch.float64), 0, self.control_group)

    def shutdown(self) -> None:
        """End the run on all ranks. Has no effect on ranks that wait inside a step that was aborted."""
        order = torch.tensor((_SHUTDOWN, 0.0, 0.0), dtype=torch.float64)
        with suppress(RuntimeError):  # the other ranks are gone or do not respond
            sent = dist.broadcast(order, 0, self.control_group, async_op=True)
            assert sent is not None  # None only outside the group
            sent.wait(_SHUTDOWN_TIMEOUT)

    def orders(self) -> Iterator[tuple[int, int, float]]:
        """Announced steps (epoch, number, learning rate), until the shutdown."""
        while True:
            order = torch.empty(3, dtype=torch.float64)
            dist.broadcast(order, 0, self.control_group)
            epoch, number, rate = order.tolist()
            if epoch == _SHUTDOWN:
                return
            yield int(epoch), int(number), rate


@dataclass(frozen=True, slots=True)
class DataParallelLearner(Learner):
    network: nn.Module
    group: WorkerGroup
    norms: tuple[SharedBatchNorm, ...]

    def compute_gradients(
        self, batch: Batch, epoch: int, number: int, micro_batch: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """As in one process: gradients of the whole batch's mean loss, that loss, and the number of right images.

        Each process augments the whole batch and takes its part, so it sees the same pixels as a single process would.
        A rank without a part computes on two images and discards the result, since the others wait for it.

        Raises:
            MemoryShortageError: it does not fit; a step cannot be retried once the other ranks have moved on.
        """
        try:
            return self._compute_part(batch, epoch, number)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryShortageError(
                f"memory ran out on worker {self.group.rank + 1} of {self.group.size} with its part of a batch of "
                f"{counted(len(batch[1]), 'image')}; use more workers, or a smaller batch size, image size or network"
            ) from error

    def _compute_part(self, batch: Batch, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        pixels, labels = batch
        if self.uses_rng:
            torch.manual_seed(step_seed(self.spec.seed, epoch, number, self.group.rank))
        pixels = self.prepare.augment(pixels, self.spec.seed, epoch, number)
        start, stop = self.group.part_of(len(labels))
        share = (stop - start) / len(labels)
        mine = slice(start, stop) if share else slice(0, MIN_MICRO_BATCH)
        for norm in self.norms:
            norm.counts = share > 0
        self._begin()
        with torch.autocast(self.placement.device.type, self.placement.dtype, enabled=self.placement.autocast):
            logits = self.network(self.prepare(pixels[mine]))
        loss = F.cross_entropy(logits.float(), labels[mine], label_smoothing=self.spec.label_smoothing)
        right = (logits.detach().argmax(dim=1) == labels[mine]).sum()
        sums = torch.stack((loss.detach() * share, right.to(loss.dtype))) if share else loss.new_zeros(2)
        self.group.sum(sums)
        self.guard.after_loss(sums[0])
        torch.autograd.backward(loss * (share * self.group.size))
        self.guard.done()
        return sums[0], sums[1].long()


def follow(setup: Setup, group: WorkerGroup) -> None:
    """Execute the steps that rank zero announces, until it shuts the group down."""
    learner, data = setup.learner, setup.data
    learner.model.train()
    epoch_now, batches = 0, iter(list[Batch]())
    for epoch, number, rate in group.orders():
        if epoch != epoch_now:
            order = epoch_order(len(data.train), setup.spec.seed, epoch)
            batches = feed(data.train, order, setup.bounds[number:], setup.placement.device)
            epoch_now = epoch
        learner.compute_gradients(next(batches), epoch, number)
        set_learning_rate(learner.optimizer, rate)
        learner.optimizer.step()
