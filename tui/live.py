"""The live run as screens see it: state built from events, and arithmetic on it. Draws nothing."""

from __future__ import annotations

from typing import assert_never

from engine.analysis.tables import checked_text, continued_text, data_lines
from engine.combinations import are_twins
from engine.events import (
    CheckpointFailed,
    CheckpointSaved,
    DatasetProgressed,
    EpochEnded,
    Evaluated,
    EvaluationProgressed,
    Event,
    GradientsMeasured,
    MemoryForecasted,
    MemoryRecovered,
    Metrics,
    RunContinued,
    RunEnded,
    RunPaused,
    RunResumed,
    RunStarted,
    SettingsTuned,
    StepsCompleted,
    TuningChecked,
)
from engine.spec import RunSpec
from tui.series import Series


class LiveRun:
    """One run since its start. `version` counts events, so that screens can detect changes.

    `twin` is the previous run if it differs only in having, or not having, shortcuts.
    """

    def __init__(self, spec: RunSpec, previous: LiveRun | None = None) -> None:
        self.spec = spec
        self.twin = previous if previous is not None and are_twins(previous.spec, spec) else None
        self.version = 0
        self.run: int | None = None
        self.started: RunStarted | None = None
        self.ended: RunEnded | None = None
        self.refused: str | None = None
        self.pausing = False
        self.paused = False
        self.stopping = False
        self.activity = "loading torch"
        self.activity_share: float | None = None
        self.epoch = 0
        self.step = 0
        self.images_per_s: float | None = None
        self.step_s: float | None = None
        self.evaluation_s = 0.0
        self.untrained: Metrics | None = None
        self.latest: Metrics | None = None
        self.latest_split = "test"
        self.train_loss, self.train_accuracy = Series(), Series()
        self.test_loss, self.test_accuracy = Series(), Series()
        self.val_loss, self.val_accuracy = Series(), Series()
        self.weights: CheckpointSaved | None = None
        self.gradients: GradientsMeasured | None = None
        self.recovered: MemoryRecovered | None = None
        self.note: str | None = None

    @property
    def latest_name(self) -> str:
        """Column title of the latest figures; those under "untrained" are always from the test set."""
        name = "trained" if self.ended and self.ended.final else "now"
        name = name if self.spec.epochs else "evaluated"
        return name if self.latest_split == "test" else f"{name}, on val"

    @property
    def over(self) -> bool:
        return self.ended is not None or self.refused is not None

    @property
    def on_cpu(self) -> bool:
        """Whether the run trains on the CPU, where drawing costs training time. True until the device is known."""
        return self.started is None or self.started.resolved.device == "cpu"

    @property
    def state(self) -> str:
        """The run's state in one or two words."""
        if self.ended:
            return self.ended.status
        if self.refused:
            return "refused"
        if self.stopping:
            return "stopping …"
        if self.paused:
            return "paused"
        return "pausing …" if self.pausing else self.activity

    @property
    def num_steps(self) -> int:
        return self.started.num_steps if self.started else 0

    @property
    def steps_per_epoch(self) -> int:
        return max(self.num_steps // max(self.spec.epochs, 1), 1)

    @property
    def run_share(self) -> float:
        return self.step / self.num_steps if self.num_steps else 0.0

    @property
    def epoch_share(self) -> float:
        return min(max(self.step - max(self.epoch - 1, 0) * self.steps_per_epoch, 0) / self.steps_per_epoch, 1.0)

    def left_s(self, steps: int, evaluations: int) -> float | None:
        """Seconds that this many steps and evaluations will take at the speed so far."""
        return None if self.step_s is None else steps * self.step_s + evaluations * self.evaluation_s

    @property
    def run_left_s(self) -> float | None:
        evaluations = self.spec.epochs - max(self.epoch - 1, 0)
        return self.left_s(self.num_steps - self.step, evaluations)

    @property
    def epoch_left_s(self) -> float | None:
        return self.left_s(self.epoch * self.steps_per_epoch - self.step, 0)

    def refuse(self, error: str) -> None:
        self.version += 1
        self.refused = error

    def add(self, event: Event) -> None:
        self.version += 1
        self.run = event.run
        match event:
            case DatasetProgressed():
                self._set_activity(f"{event.stage} {event.dataset}", event.done / event.total if event.total else None)
            case RunStarted():
                self.started = event
                self.note = " · ".join(data_lines(event.notes, event.left_out)) or None
            case EvaluationProgressed():
                self._set_activity(f"evaluating on {event.split}", event.done / event.total)
            case Evaluated():
                self._add_evaluation(event)
            case StepsCompleted():
                self._add_steps(event)
            case EpochEnded():
                self.images_per_s = event.images_per_s
                self._set_activity("evaluating", None)
            case GradientsMeasured():
                self.gradients = event
            case CheckpointSaved():
                self.weights = event
            case CheckpointFailed():
                self.note = f"step {event.step:,} could not be saved: {event.error}"
            case RunContinued():
                self._rewind(event)
            case MemoryRecovered():
                self.recovered = event
            case RunPaused():
                self.paused = True
            case RunResumed():
                self.paused = False
            case RunEnded():
                self.ended = event
                self.paused = False
            case TuningChecked():
                self.note = checked_text(event) or self.note
            case SettingsTuned() | MemoryForecasted():
                pass  # shown in Results
            case _:
                assert_never(event)

    def _rewind(self, event: RunContinued) -> None:
        """Go back to a checkpoint, after lost workers or an interruption: later steps are trained again."""
        lost = self.step > event.step
        self.note = f"{'workers were lost: ' if lost else ''}{continued_text(event)}"
        self.step = event.step
        for series in (self.train_loss, self.train_accuracy, self.test_loss, self.test_accuracy, self.val_loss,
                       self.val_accuracy):  # fmt: skip
            series.cut(event.step)

    def _set_activity(self, what: str, share: float | None) -> None:
        self.activity, self.activity_share = what, share

    def _add_steps(self, event: StepsCompleted) -> None:
        self._set_activity("training", None)
        self.epoch, self.step = event.epoch, event.last_step
        self.train_loss.extend(event.first_step, event.losses)
        self.train_accuracy.extend(event.first_step, event.accuracies)
        self.images_per_s = event.images / event.train_s
        self.step_s = event.train_s / event.last_step

    def _add_evaluation(self, event: Evaluated) -> None:
        loss, accuracy = (
            (self.test_loss, self.test_accuracy) if event.split == "test" else (self.val_loss, self.val_accuracy)
        )
        loss.extend(event.step, [event.metrics.loss])
        accuracy.extend(event.step, [event.metrics.accuracy])
        self.evaluation_s = event.elapsed_s
        if event.moment == "untrained":
            self.untrained = event.metrics
        else:
            self.latest, self.latest_split = event.metrics, event.split
