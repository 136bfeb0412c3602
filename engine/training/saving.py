"""Checkpoints during training: the state is copied between two steps, and a separate thread writes it.

A run saves often enough that at most `every_s` seconds of work are at risk, and at the end of each epoch if that costs
under a fiftieth of the time. A failed write is retried when the next checkpoint is due; only the last one of a run must
succeed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.events import CheckpointFailed, CheckpointSaved
from engine.models.form import form_of
from engine.step.learner import Learner
from engine.training.checkpoint import SavedFile, snapshot, write_checkpoint
from engine.training.position import Position

COST_SHARE = 0.02  # of the time since the last checkpoint
_BYTES_PER_S = 4e8  # an estimate until the first write: memory to disk, with hashing
EARLY = 0.8  # of `every_s`: the rest covers the current step and the write
_log = logging.getLogger("reslab")


class Saver:
    """One run's checkpoints. Call its methods between two steps, in the training thread."""

    def __init__(
        self, run: int, folder: Path, every_s: float, num_bytes: int, start: int = 0, class_names: Sequence[str] = ()
    ) -> None:
        self.saved_step: int | None = start or None  # a resumed run is at its checkpoint
        self._run, self._folder, self._every_s, self._class_names = run, folder, every_s, list(class_names)
        self._cost_s = num_bytes / _BYTES_PER_S
        self._began_at = time.monotonic()
        self._writer: threading.Thread | None = None
        self._written: SavedFile | CheckpointError | None = None
        self._position: Position | None = None

    @property
    def due(self) -> bool:
        """Whether `every_s` seconds of work are nearly at risk."""
        return self._writer is None and time.monotonic() - self._began_at >= EARLY * self._every_s

    @property
    def worth_it(self) -> bool:
        """Whether saving is cheap compared with the time since the last checkpoint."""
        return self._writer is None and time.monotonic() - self._began_at >= self._cost_s / COST_SHARE

    def begin(self, learner: Learner, position: Position) -> None:
        """Copy the state and start writing it; the previous one must have been reported."""
        assert self._writer is None
        self._began_at = began = time.monotonic()
        form = form_of(learner.model)
        normalization = {"mean": learner.prepare.mean, "std": learner.prepare.std}
        about: dict[str, Any] = {"spec": learner.spec.to_dict(), "form": form, "normalization": normalization}
        header = {"run": self._run, "classes": self._class_names, **about, **position.to_dict()}
        tensors = snapshot(learner.model, learner.optimizer)
        copied_s = time.monotonic() - began

        def write() -> None:
            start = time.thread_time()
            try:
                self._written = write_checkpoint(self._folder, tensors, header)
            except CheckpointError as error:
                self._written = error
            except Exception as error:
                _log.exception("step %d could not be written", position.step)
                self._written = CheckpointError(f"cannot write weights to {self._folder} ({type(error).__name__})")
            self._cost_s = copied_s + time.thread_time() - start

        self._written, self._position = None, position
        writer = threading.Thread(target=write, name="checkpoint")
        writer.start()
        self._writer = writer  # only now: an interrupt may arrive while it starts

    def wait(self) -> None:
        """Wait for the writer, so that nothing is written after the run has ended."""
        if self._writer is not None:
            self._writer.join()

    def pending_events(self, wait: bool = False) -> Iterator[CheckpointSaved | CheckpointFailed]:
        """The outcome of the last write, reported once; `wait` for it to finish."""
        if self._writer is None or (self._writer.is_alive() and not wait):
            return
        self._writer.join()
        self._writer = None
        assert self._position is not None
        if isinstance(self._written, SavedFile):
            file, self.saved_step = self._written, self._position.step
            yield CheckpointSaved(
                self._run, file.name, file.sha256, self._position.epochs_done, self.saved_step, file.num_bytes
            )
        else:
            yield CheckpointFailed(self._run, self._position.step, str(self._written))
