"""The training loop, to be read from top to bottom. It only yields: it stores nothing and calls nothing back.

    load the images                          → DatasetProgressed …
    build network, optimizer, guard          → RunStarted
    evaluate on the test set                 → Evaluated (untrained; final, and nothing more, with 0 epochs)
    for every epoch:
        for every batch, in the order of (seed, epoch):
            wait while paused                → RunPaused, RunResumed
            one step, nothing read back
            ten times a second               → StepsCompleted
            three times, at under 1 % of it  → GradientsMeasured
        the epoch's means                    → EpochEnded
        evaluate on val, else on test        → EvaluationProgressed …, Evaluated (epoch, and final after the last)
        at most a minute apart, and last     → CheckpointSaved
    return how it ended                      (`run()` makes RunEnded of it)

Any value that is not finite ends the run as diverged: a step's loss, an evaluation's loss, a weight, a statistic or a
value of the optimizer's state at the end of an epoch or of the run.

With a validation share the test set is evaluated twice, untrained and at the very end, so that choices made between two
runs rest on the validation images.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from engine.cores import considerate
from engine.data.batches import epoch_order
from engine.data.feeding import Batch, feed
from engine.errors import CheckpointError, DatasetError
from engine.events import CheckpointFailed, Event, Moment, RunContinued, RunPaused, RunResumed, Status
from engine.events import Split as SplitName
from engine.memory.freeing import empty_caches
from engine.memory.peak import PeakMeter
from engine.progress import LoadingStopped
from engine.spec import RunSpec
from engine.step.gradients import Gradients
from engine.step.guard import what_is_not_finite
from engine.step.optim import learning_rate, set_learning_rate
from engine.training.autotune import check_choice, keep_threads
from engine.training.context import RunContext
from engine.training.evaluation import When, evaluate
from engine.training.position import Position
from engine.training.saving import Saver
from engine.training.setup import Setup, release, set_up
from engine.training.step_metrics import StepMetrics

_LISTEN_EVERY_S = 0.5  # a paused run polls this often, in case a notification is lost


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ending:
    """How the loop ended. `error` is a sentence if it diverged or was interrupted; the bytes are as in RunEnded."""

    status: Status
    error: str | None = None
    peak_bytes: int | None = None
    context_bytes: int | None = None
    grown_bytes: int | None = None


def train(spec: RunSpec, context: RunContext) -> Generator[Event, None, Ending]:
    """Train one run, yielding its events, and return how it ended. In a group this is rank zero.

    Only the thread that iterates may close it. Network and images stay in the context's ledger, marked as idle.

    Raises:
        ReslabError: images, weights or device are not available, weights cannot be written, or the run to resume was
            trained on other images.
    """
    device = context.group.placed(context.placement).device
    run, ledger, resume = context.run, context.ledger, context.resume
    with _arithmetic(spec.deterministic), keep_threads():
        peak = PeakMeter(device)
        setup = None
        try:
            setup = yield from set_up(spec, context)
            started = setup.started()
            yield started
            position = resume.position
            if not resume.is_fresh:
                differs = resume.differences(started.resolved)
                yield RunContinued(run, position.step, differs, position.epochs_done, position.evaluated)
            yield from setup.forecasted()
            yield from setup.recovery.pending_events()
            loop = _Loop(setup, position)
            with considerate(torch.get_num_threads() if device.type == "cpu" else 1):
                ending = yield from loop.all_epochs()
            yield from loop.tuning_checked()
            return replace(
                ending, peak_bytes=peak.allocated(ledger.bytes_of_others(run)), context_bytes=peak.context(),
                grown_bytes=peak.grown(),
            )  # fmt: skip
        except LoadingStopped:
            return Ending("stopped", context.control.stop_reason)
        finally:
            if setup is not None:  # otherwise the other ranks are not waiting for steps
                context.group.shutdown()
            ledger.finish(run)
            release(setup)
            if device.type == "cpu":
                empty_caches()  # the C library keeps freed memory for the next step


class _Loop:
    """One run's loop and the state that its steps share."""

    def __init__(self, setup: Setup, start: Position) -> None:
        self.setup = setup
        context = setup.context
        self.learner = setup.learner
        self.recovery = setup.recovery
        self.control = context.control
        self.metrics = StepMetrics(setup.run, start)
        self.gradients = Gradients(setup.run, self.learner.model)
        self.epochs_done, self.evaluated = start.epochs_done, start.evaluated
        self.not_finite: str | None = None  # what, and when
        self.lost: str | None = None  # which file has changed or is gone, of images that are decoded as they are used
        self.began = time.perf_counter() - start.elapsed_s
        folder = context.folders.run_folder(setup.run)
        every_s, num_bytes = setup.spec.checkpoint_every, self.learner.num_bytes
        self.saver = Saver(setup.run, folder, every_s, num_bytes, start.step, setup.data.class_names)

    def all_epochs(self) -> Generator[Event, None, Ending]:
        try:
            while not self.control.stop_requested and self.state_is_finite():
                if not self.evaluated:
                    if self.epochs_done and self.saver.worth_it:
                        yield from self.save()  # an evaluation may take long
                    if not (yield from self.evaluate_epoch()):
                        break
                    self.evaluated = True
                if self.epochs_done == self.setup.spec.epochs:
                    yield from self.save(last=True)
                    return Ending("completed")
                yield from self.steps_of(self.epochs_done + 1)
                if self.metrics.diverged_at is not None:
                    self.not_finite = f"the loss was not finite at step {self.metrics.diverged_at:,}"
                    break
                if self.lost is not None:
                    break
                if not self.control.stop_requested:
                    self.epochs_done, self.evaluated = self.epochs_done + 1, False
                    yield self.metrics.end_epoch(self.epochs_done)
            if self.not_finite is not None or not self.state_is_finite():
                return (yield from self.diverged())
            if self.metrics.step:
                yield from self.save(last=True)
            return Ending("stopped", self.control.stop_reason) if self.lost is None else Ending("failed", self.lost)
        finally:
            self.saver.wait()

    def tuning_checked(self) -> Iterator[Event]:
        """Yields nothing if something other than the measured settings affected the speed."""
        setup = self.setup
        typical = setup.spec.freeze == "none" and not setup.spec.compile and setup.data.train.is_on(torch.device("cpu"))
        if setup.tuned is None or not typical or self.recovery.micro_batch is not None or self.recovery.recomputing:
            return
        checked = check_choice(setup.run, setup.tuned, self.metrics.images, self.metrics.clock.seconds)
        if checked is not None:
            yield checked

    @property
    def bad_state(self) -> str | None:
        return what_is_not_finite(self.learner.model, self.learner.optimizer)

    def state_is_finite(self) -> bool:
        """Checked between epochs and at a stop: the last step's loss says nothing about its update."""
        if self.not_finite is None and (what := self.bad_state) is not None:
            self.not_finite = f"{what} were not finite after step {self.metrics.step:,}"
        return self.not_finite is None

    def steps_of(self, epoch: int) -> Generator[Event, None, None]:
        """The remaining steps of an epoch; ends early at a stop request or a loss that is not finite."""
        setup, metrics = self.setup, self.metrics
        order = epoch_order(len(setup.data.train), setup.spec.seed, epoch)
        first = metrics.step - self.epochs_done * setup.steps_per_epoch
        batches = feed(setup.data.train, order, setup.bounds[first:], setup.placement.device, self.control)
        rate = setup.spec.learning_rate
        self.learner.model.train()
        metrics.clock.start()
        for number, batch in enumerate(self.until_lost(batches), first):
            if self.control.pause_requested:
                yield from self.pause(epoch, rate)
            if self.control.stop_requested:
                break
            rate = learning_rate(setup.spec, metrics.step, setup.num_steps, setup.steps_per_epoch)
            metrics.add(*self.step(batch, epoch, number, rate), len(batch[1]))
            if self.recovery.events:
                yield from self.recovery.pending_events()
            if metrics.due:
                yield from self.read_metrics(epoch, rate)
                if metrics.diverged_at is not None:
                    break
                yield from self.save_if_due()
        if metrics.diverged_at is None:
            yield from self.read_metrics(epoch, rate)
        metrics.clock.stop()

    def until_lost(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches before the first that cannot be read any more: the steps so far count."""
        try:
            yield from batches
        except DatasetError as error:
            self.lost = str(error)

    def step(self, batch: Batch, epoch: int, number: int, rate: float) -> tuple[Tensor, Tensor]:
        """One update; returns the loss and the number of right images, still on the device."""
        step = self.metrics.step + 1
        self.setup.context.group.announce_step(epoch, number, rate)
        loss, num_right = self.recovery.compute_gradients(batch, epoch, number, step)
        set_learning_rate(self.learner.optimizer, rate)
        if self.gradients.due:
            self.gradients.around(self.recovery.update, step)
        else:
            self.recovery.update()
        return loss, num_right

    def read_metrics(self, epoch: int, rate: float) -> Iterator[Event]:
        completed = self.metrics.read(epoch, rate)
        if completed is not None:
            yield completed
        measured = self.gradients.read()
        if measured is not None and self.metrics.diverged_at is None:
            yield measured

    def pause(self, epoch: int, rate: float) -> Iterator[Event]:
        yield from self.read_metrics(epoch, rate)
        self.metrics.clock.stop()
        began = time.perf_counter()
        yield RunPaused(self.setup.run, self.metrics.step)
        while self.control.pause_requested:
            yield from self.saver.pending_events()
            self.control.wait(_LISTEN_EVERY_S)
        yield RunResumed(self.setup.run, self.metrics.step, time.perf_counter() - began)
        self.metrics.clock.start()

    def evaluate_epoch(self) -> Generator[Event, None, bool]:
        """After an epoch: the validation images if there are any, else the test set; after the last one, both.

        Before the first epoch: the test set. A run of 0 epochs is after its last one from the start. False if a stop
        was requested meanwhile.
        """
        if self.epochs_done == 0 and self.setup.spec.epochs:
            return (yield from self.evaluate("test", "untrained"))
        if self.setup.data.val is not None and not (yield from self.evaluate("val", "epoch")):
            return False
        if self.epochs_done == self.setup.spec.epochs:
            return (yield from self.evaluate("test", "final"))
        return self.setup.data.val is not None or (yield from self.evaluate("test", "epoch"))

    def evaluate(self, split_name: SplitName, moment: Moment) -> Generator[Event, None, bool]:
        """Evaluate one split; False if a stop was requested meanwhile, or its loss is not finite."""
        setup = self.setup
        split = setup.data.val if split_name == "val" else setup.data.test
        assert split is not None
        when = When(setup.run, split_name, moment, self.epochs_done, self.metrics.step)
        num_classes = len(setup.data.class_names)
        work = evaluate(self.learner, split, num_classes, when, self.recovery, self.control)
        try:
            evaluated = yield from self.while_saving(work)
        except DatasetError as error:
            self.lost, evaluated = str(error), None
        if evaluated is None:
            return False
        yield evaluated
        if not math.isfinite(evaluated.metrics.loss):
            moment_text = f"after epoch {self.epochs_done}" if self.epochs_done else "before the first step"
            self.not_finite = f"the loss on the {split_name} images was not finite {moment_text}"
        return self.not_finite is None

    def while_saving(self, work: Generator[Event, None, T]) -> Generator[Event, None, T]:
        """Run `work`; write checkpoints and yield their events meanwhile, as between two steps."""
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                done: T = end.value
                return done
            yield event
            yield from self.saver.pending_events()
            if self.saver.due and self.saver.saved_step != self.metrics.step:  # an evaluation changes no weights
                yield from self.save()

    @property
    def position(self) -> Position:
        """Between two steps, with all metrics read back."""
        metrics = self.metrics
        return Position(
            step=metrics.step, epochs_done=self.epochs_done, evaluated=self.evaluated, images=metrics.images,
            train_s=metrics.clock.seconds, elapsed_s=time.perf_counter() - self.began, epoch=metrics.epoch_sums,
            memory=self.recovery.state,
        )  # fmt: skip

    def save_if_due(self) -> Iterator[Event]:
        """Within an epoch: yield the events of finished writes, and save if too much work is at risk."""
        yield from self.saver.pending_events()
        if self.saver.due:
            self.metrics.clock.stop()
            yield from self.save()
            self.metrics.clock.start()

    def save(self, last: bool = False) -> Iterator[Event]:
        """Start writing the state, unless this step is saved already; `last` waits for it.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        yield from self.saver.pending_events(wait=True)
        if self.saver.saved_step != self.metrics.step and (last or self.bad_state is None):
            self.saver.begin(self.learner, self.position)
        if last:
            for event in self.saver.pending_events(wait=True):
                if isinstance(event, CheckpointFailed):
                    raise CheckpointError(event.error)
                yield event

    def diverged(self) -> Generator[Event, None, Ending]:
        """Keep the last finite state: after a bad loss the state before its step, since the guard skipped that step and
        all later ones; otherwise the newest checkpoint.
        """
        message, advice = self.not_finite, "try a lower learning rate, or a warm-up"
        if self.metrics.step == 0 and self.metrics.diverged_at is None:
            advice = "choose other weights, or weights=random" if self.setup.spec.weights != "random" else advice
            return Ending("diverged", f"{message}, so nothing was trained; {advice}")
        if self.bad_state is None:
            yield from self.save(last=True)
            kept = "the state before it is" if self.metrics.diverged_at is not None else "the weights are finite and"
            return Ending("diverged", f"{message}; {kept} kept; {advice}")
        # The step before had a finite loss but gradients that were not finite: its weights are useless.
        yield from self.saver.pending_events(wait=True)
        if self.metrics.diverged_at is not None:
            message = f"{message}, and the weights before it were not finite either"
        if self.saver.saved_step is not None:
            message = f"{message}; those of step {self.saver.saved_step:,} are kept"
        return Ending("diverged", f"{message}; {advice}")


@contextmanager
def _arithmetic(deterministic: bool) -> Iterator[None]:
    """torch's global switches for one run, restored afterwards. Not touched if they are right already: setting them
    loads torch's compiler.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if before == deterministic:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch's note on reproducibility
    torch.use_deterministic_algorithms(deterministic)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
