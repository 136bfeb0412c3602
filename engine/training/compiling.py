"""`--compile`: torch compiles the network before the first step, never in the middle of a run.

Every batch shape of the run, in training and in evaluation, passes through once on blank images, so compilation shows
up as progress. Weights, statistics and random state stay unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable

import torch
from torch import Tensor

from engine.control import Control
from engine.errors import ModelError
from engine.progress import LoadingStopped, Progress
from engine.shape import DataShape
from engine.step.forward import forward
from engine.step.learner import Learner

_log = logging.getLogger("reslab")


def compile_network(
    learner: Learner, shape: DataShape, train_sizes: Iterable[int], eval_sizes: Iterable[int], control: Control
) -> Generator[Progress, None, None]:
    """Compile for batches of these sizes.

    Raises:
        ModelError: torch cannot compile this network here; details are in the log.
        LoadingStopped: `control` requested a stop, between two shapes.
    """
    passes = [(True, size) for size in dict.fromkeys(train_sizes)] + [
        (False, size) for size in dict.fromkeys(eval_sizes)
    ]
    kept = [values.clone() for values in (*learner.model.buffers(), *learner.guard.copies)]
    learner.model.compile()
    try:
        for number, (training, size) in enumerate(passes):
            yield Progress("compile", number, len(passes), "shapes")
            if control.stop_requested:
                raise LoadingStopped
            pass_through(learner, training, _blank(size, shape, learner.placement.device))
    except LoadingStopped:
        raise
    except Exception as error:
        _log.warning("%s cannot be compiled", learner.spec.model, exc_info=True)
        raise ModelError(
            f"torch cannot compile {learner.spec.model} here ({type(error).__name__}, details in reslab.log); "
            "leave --compile out"
        ) from None
    learner.model.train()
    learner.optimizer.zero_grad(set_to_none=True)
    for values, before in zip((*learner.model.buffers(), *learner.guard.copies), kept, strict=True):
        values.copy_(before)


def pass_through(learner: Learner, training: bool, batch: tuple[Tensor, Tensor]) -> None:
    learner.model.train(training)
    if training:
        learner.compute_gradients(batch, 1, 0)
    else:
        pixels, labels = batch
        forward(learner.model, learner.prepare(pixels), labels, learner.placement)


def _blank(number: int, shape: DataShape, device: torch.device) -> tuple[Tensor, Tensor]:
    pixels = torch.zeros(number, shape.channels, shape.height, shape.width, dtype=torch.uint8, device=device)
    return pixels, torch.zeros(number, dtype=torch.int64, device=device)
