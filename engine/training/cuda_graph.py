"""On a GPU the step of a whole batch is recorded once, as a CUDA graph, and from then on launched in one piece.

A step on small images is hundreds of kernels of a few microseconds; launching each from Python takes longer than they
do. What is recorded is the learner's own step, so it is the same arithmetic on the same data. The rest of a run takes
the ordinary way: the last, smaller batch, micro-batches, networks that draw random numbers, and whatever cannot be
recorded.

    compute_gradients     copy the batch to where the graph reads it, launch the forward and backward passes
    update                launch the optimizer's step, its learning rate read from the device

The graph keeps its activations for as long as it lives, beside those of an evaluation, so it is made where twice the
forecast fits, and dropped as soon as an allocation fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.data.feeding import Batch
from engine.environment import GRAPH, is_on
from engine.step.learner import Learner

if TYPE_CHECKING:
    from engine.forecast.memory_plan import Plan

_WARM_UPS = 3  # on a side stream, as torch's notes on CUDA graphs ask for, so that libraries choose their algorithms
_log = logging.getLogger("reslab")

Outputs = list[Tensor]
Recorder = Callable[[Callable[[], Outputs]], tuple[Outputs, Callable[[], None]]]
"""Takes work for the device; returns its outputs, and what does the work again and leaves new values in those."""


def is_capturable(learner: Learner, plan: Plan) -> bool:
    """Whether this run's steps are to be recorded: on a GPU with the room for it, unless RESLAB_GRAPH=0."""
    wanted = is_on(GRAPH) and learner.placement.device.type == "cuda"
    plain = plan.is_whole and not learner.draws and not learner.spec.compile
    return wanted and plain and plan.forecast is not None and 2 * plan.forecast.peak_bytes <= plan.room_bytes


class GraphedStep:
    """One run's recorded step, made when the first whole batch comes. `record` is CUDA's, or a test's stand-in."""

    def __init__(self, learner: Learner, record: Recorder | None = None) -> None:
        self._learner = learner
        self._record = record or cuda_recorder(learner.placement.device)
        self._trained: list[Tensor] = [v for group in learner.optimizer.param_groups for v in group["params"]]
        self._dropped = False
        self._batch: Batch | None = None
        self._gradients: list[Tensor] = []
        self._outputs: Outputs = []
        self._compute: Callable[[], None] | None = None
        self._update: Callable[[], None] | None = None

    def compute_gradients(self, batch: Batch, epoch: int, number: int) -> tuple[Tensor, Tensor] | None:
        """As `Learner.compute_gradients`; None where this batch has to go the ordinary way."""
        pixels, labels = batch
        if self._dropped or len(labels) != self._learner.spec.batch_size:
            return None
        pixels = self._learner.prepare.augment(pixels, self._learner.spec.seed, epoch, number)
        if self._compute is None and not self._recorded((pixels, labels)):
            return None
        assert self._batch is not None
        assert self._compute is not None
        for static, values in zip(self._batch, (pixels, labels), strict=True):
            static.copy_(values)
        self._compute()
        for values, gradient in zip(self._trained, self._gradients, strict=True):
            values.grad = gradient
        loss, num_right = self._outputs
        return loss.clone(), num_right.clone()

    def update(self) -> None:
        """The optimizer's step on the gradients that `compute_gradients` left."""
        assert self._update is not None
        self._update()

    def drop(self) -> None:
        """Let go of the graph and its memory; from now on every batch goes the ordinary way."""
        if self._gradients:
            self._learner.optimizer.zero_grad(set_to_none=True)
        self._dropped = True
        self._batch = self._compute = self._update = None
        self._gradients, self._outputs = [], []

    def _recorded(self, batch: Batch) -> bool:
        """Record both halves of the step; leaves weights, statistics and optimizer as they were."""
        learner = self._learner
        kept = [values.clone() for values in (*learner.model.buffers(), *learner.guard.copies)]
        try:
            self._record_both(batch)
        except Exception:  # no memory, or an operation that no graph takes
            _log.info("the step of %s is not recorded", learner.spec.model, exc_info=True)
            self.drop()
        learner.optimizer.zero_grad(set_to_none=True)
        for values, before in zip((*learner.model.buffers(), *learner.guard.copies), kept, strict=True):
            values.copy_(before)
        return not self._dropped

    def _record_both(self, batch: Batch) -> None:
        learner = self._learner
        pixels, labels = (values.clone() for values in batch)
        self._batch = (pixels, labels)
        for group in learner.optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=learner.placement.device)
            if "capturable" in group:
                group["capturable"] = True

        def compute() -> Outputs:
            loss, num_right = learner.whole_gradients(pixels, labels)
            gradients = [values.grad for values in self._trained]
            assert all(gradient is not None for gradient in gradients), "a parameter without a gradient"
            return [loss, num_right, *gradients]  # type: ignore[list-item]

        def update() -> Outputs:
            learner.optimizer.step()
            return []

        outputs, self._compute = self._record(compute)
        self._outputs, self._gradients = outputs[:2], outputs[2:]
        learner.guard.flag.fill_(1.0)  # the guard leaves out the updates that warm up
        _, self._update = self._record(update)


def cuda_recorder(device: torch.device) -> Recorder:
    pool, side = torch.cuda.graph_pool_handle(), _side_stream(device)

    def record(work: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: the screen's thread may ask the driver something meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            outputs = work()
        return outputs, graph.replay

    return record


@lru_cache
def _side_stream(device: torch.device) -> Any:
    """One for all runs, to warm up and to record: cuBLAS keeps a workspace for each stream that it has been used on."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
