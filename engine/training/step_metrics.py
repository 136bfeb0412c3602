"""Losses and counts of steps: they stay on the device and are read back about ten times a second."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from engine.events import EpochEnded, StepsCompleted
from engine.training.clock import Stopwatch
from engine.training.position import START, EpochSums, Position

READ_EVERY_S = 0.1


class StepMetrics:
    """A run's metrics so far; `diverged_at` is the first step whose loss was read and is not finite."""

    def __init__(self, run: int, start: Position = START) -> None:
        self.clock = Stopwatch(start.train_s)
        self.step = start.step
        self.images = start.images
        self.diverged_at: int | None = None
        self._run = run
        self._read_at = time.perf_counter()
        self._waiting: list[tuple[Tensor, Tensor, int]] = []
        self._epoch_images, self._loss_sum, self._right = start.epoch.images, start.epoch.loss, start.epoch.right
        self._epoch_began_s = start.epoch.began_s

    @property
    def epoch_sums(self) -> EpochSums:
        """Over the steps read back since the epoch began."""
        return EpochSums(self._epoch_images, self._loss_sum, self._right, self._epoch_began_s)

    def _start_epoch(self) -> None:
        self._epoch_images, self._loss_sum, self._right = 0, 0.0, 0
        self._epoch_began_s = self.clock.seconds

    def add(self, loss: Tensor, num_right: Tensor, num_images: int) -> None:
        """A step's mean loss over its images and number of right images, both still on the device."""
        self._waiting.append((loss, num_right, num_images))
        self.step += 1

    @property
    def due(self) -> bool:
        return bool(self._waiting) and time.perf_counter() - self._read_at >= READ_EVERY_S

    def read(self, epoch: int, learning_rate: float) -> StepsCompleted | None:
        """All steps since the last call, up to the first that is not finite. Waits for the device."""
        self._read_at = time.perf_counter()
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return None
        losses, rights = torch.stack([torch.stack((loss.double(), right.double())) for loss, right, _ in waiting]).T
        first_step = self.step - len(waiting) + 1
        points = list(zip(losses.tolist(), rights.tolist(), (count for *_, count in waiting), strict=True))
        bad = next((index for index, point in enumerate(points) if not math.isfinite(point[0])), None)
        if bad is not None:
            self.diverged_at = first_step + bad
            self.step = self.diverged_at - 1
            points = points[:bad]
        for loss, right, count in points:
            self.images += count
            self._epoch_images += count
            self._loss_sum += loss * count
            self._right += int(right)
        if not points:
            return None
        return StepsCompleted(
            run=self._run,
            epoch=epoch,
            first_step=first_step,
            losses=tuple(loss for loss, _, _ in points),
            accuracies=tuple(right / count for _, right, count in points),
            learning_rate=learning_rate,
            images=self.images,
            train_s=self.clock.seconds,
        )

    def end_epoch(self, epoch: int) -> EpochEnded:
        train_s = self.clock.seconds - self._epoch_began_s
        ended = EpochEnded(
            run=self._run,
            epoch=epoch,
            train_loss=self._loss_sum / self._epoch_images,
            train_accuracy=self._right / self._epoch_images,
            train_s=train_s,
            images_per_s=self._epoch_images / max(train_s, 1e-9),
        )
        self._start_epoch()
        return ended
