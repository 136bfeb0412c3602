"""On a GPU, capture the step of a whole batch once as a CUDA graph and launch it in one call from then on.

A step on small images is hundreds of kernels of a few microseconds; launching each from Python takes longer than
running it. The captured step is the learner's own: the same arithmetic on the same data. Everything else uses the
ordinary step: the last, smaller batch, micro-batches, networks that use random numbers, and whatever cannot be
captured.

    compute_gradients     copy the batch to the graph's input, launch the forward and backward passes
    update                launch the optimizer's step, its learning rate read from the device

The graph holds its activations as long as it lives, beside those of an evaluation. So it is captured only if twice the
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

_WARM_UPS = 3  # on a side stream, as torch's notes on CUDA graphs require, so that libraries select algorithms
_log = logging.getLogger("reslab")

Outputs = list[Tensor]
Capture = Callable[[Callable[[], Outputs]], tuple[Outputs, Callable[[], None]]]
"""Takes device work; returns its outputs and a function that repeats the work and overwrites them."""


def is_capturable(learner: Learner, plan: Plan) -> bool:
    """Whether to capture this run's steps: on a GPU with enough memory, unless RESLAB_GRAPH=0."""
    wanted = is_on(GRAPH) and learner.placement.device.type == "cuda"
    plain = plan.is_whole and not learner.uses_rng and not learner.spec.compile
    return wanted and plain and plan.forecast is not None and 2 * plan.forecast.peak_bytes <= plan.room_bytes


class GraphedStep:
    """A run's captured step, made at the first whole batch. `capture` is CUDA's, or a test's stand-in."""

    def __init__(self, learner: Learner, capture: Capture | None = None) -> None:
        self._learner = learner
        self._capture = capture or cuda_capture(learner.placement.device)
        self._trained: list[Tensor] = [v for group in learner.optimizer.param_groups for v in group["params"]]
        self._dropped = False
        self._batch: Batch | None = None
        self._gradients: list[Tensor] = []
        self._outputs: Outputs = []
        self._compute: Callable[[], None] | None = None
        self._update: Callable[[], None] | None = None

    def compute_gradients(self, batch: Batch, epoch: int, number: int) -> tuple[Tensor, Tensor] | None:
        """As `Learner.compute_gradients`; None if this batch needs the ordinary step."""
        pixels, labels = batch
        if self._dropped or len(labels) != self._learner.spec.batch_size:
            return None
        pixels = self._learner.prepare.augment(pixels, self._learner.spec.seed, epoch, number)
        if self._compute is None and not self._captured((pixels, labels)):
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
        """Release the graph and its memory; every later batch uses the ordinary step."""
        if self._gradients:
            self._learner.optimizer.zero_grad(set_to_none=True)
        self._dropped = True
        self._batch = self._compute = self._update = None
        self._gradients, self._outputs = [], []

    def _captured(self, batch: Batch) -> bool:
        """Capture both halves of the step; weights, statistics and optimizer stay as they were."""
        learner = self._learner
        kept = [values.clone() for values in (*learner.model.buffers(), *learner.guard.copies)]
        try:
            self._capture_both(batch)
        except Exception:  # no memory, or an operation that cannot be captured
            _log.info("the step of %s is not captured", learner.spec.model, exc_info=True)
            self.drop()
        learner.optimizer.zero_grad(set_to_none=True)
        for values, before in zip((*learner.model.buffers(), *learner.guard.copies), kept, strict=True):
            values.copy_(before)
        return not self._dropped

    def _capture_both(self, batch: Batch) -> None:
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

        outputs, self._compute = self._capture(compute)
        self._outputs, self._gradients = outputs[:2], outputs[2:]
        learner.guard.flag.fill_(1.0)  # the guard skips the warm-up updates
        _, self._update = self._capture(update)


def cuda_capture(device: torch.device) -> Capture:
    pool, side = torch.cuda.graph_pool_handle(), _side_stream(device)

    def capture(work: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: the UI thread may query the driver meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            outputs = work()
        return outputs, graph.replay

    return capture


@lru_cache
def _side_stream(device: torch.device) -> Any:
    """One stream for all runs, to warm up and capture: cuBLAS keeps a workspace per stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
