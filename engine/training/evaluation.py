"""Evaluate a model on a split: one pass, predictions gathered on the device, figures as in scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.analysis.metrics import compute_metrics
from engine.control import Control
from engine.data.feeding import feed
from engine.data.images import Split
from engine.events import Evaluated, EvaluationProgressed, MemoryRecovered, Moment
from engine.events import Split as SplitName
from engine.step.forward import Outputs, evaluation_batch, forward
from engine.step.learner import Learner
from engine.training.out_of_memory import Recovery

REPORT_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class When:
    """Which evaluation of which run."""

    run: int
    split: SplitName
    moment: Moment
    epoch: int
    step: int


def evaluate(
    learner: Learner, split: Split, num_classes: int, when: When, recovery: Recovery, control: Control
) -> Generator[EvaluationProgressed | MemoryRecovered, None, Evaluated | None]:
    """Yield progress and return the results; None if `control` requested a stop.

    The model is in evaluation mode during the pass and back in its former mode afterwards.
    """
    started = reported = time.perf_counter()
    model, placement = learner.model, learner.placement
    batch_size = evaluation_batch(learner.spec.batch_size, *split.images.shape[2:])
    was_training = model.training
    model.eval()

    def work(images: Tensor, labels: Tensor) -> Outputs:
        return forward(model, learner.prepare(images), labels, placement)

    outputs: list[Outputs] = []
    try:
        bounds = [(start, min(start + batch_size, len(split))) for start in range(0, len(split), batch_size)]
        batches = feed(split, None, bounds, placement.device, control)
        for (_, stop), (images, labels) in zip(bounds, batches, strict=False):  # a stop may end the batches
            if control.stop_requested:
                return None
            outputs += recovery.evaluate(work, images, labels, when.step)
            yield from recovery.pending_events()
            if (now := time.perf_counter()) - reported >= REPORT_EVERY_S:
                reported = now
                yield EvaluationProgressed(when.run, when.split, stop, len(split))
        if sum(len(part) for part, *_ in outputs) < len(split):
            return None
    finally:
        model.train(was_training)
    predictions, confidences, losses = (torch.cat(parts).cpu().numpy() for parts in zip(*outputs, strict=True))
    true = split.labels.cpu().numpy()
    metrics, per_class, confusion = compute_metrics(
        true, predictions, num_classes, float(losses.mean(dtype=np.float64))
    )
    return Evaluated(
        run=when.run,
        split=when.split,
        moment=when.moment,
        epoch=when.epoch,
        step=when.step,
        metrics=metrics,
        per_class=per_class,
        confusion=confusion,
        elapsed_s=time.perf_counter() - started,
        labels=true.astype("<u2").tobytes(),
        predictions=predictions.astype("<u2").tobytes(),
        confidences=np.nan_to_num(confidences).astype("<f4").tobytes(),
    )
