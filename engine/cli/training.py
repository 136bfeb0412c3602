"""`reslab train`: a progress bar on a terminal, lines in a pipe, or one JSON event a line."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Protocol, assert_never

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from engine.analysis.tables import (
    busy_text,
    checked_text,
    continued_text,
    data_lines,
    duration,
    fewer_threads,
    metric_rows,
    tuning_text,
)
from engine.cli.output import json_line, print_json, terminal_is_gone
from engine.cli.parser import columns
from engine.control import RunControl
from engine.errors import OutputError, SpecError
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
    RunContinued,
    RunEnded,
    RunPaused,
    RunResumed,
    RunStarted,
    SettingsTuned,
    Status,
    StepsCompleted,
    TuningChecked,
    to_json_dict,
)
from engine.launch.detached import Carrier, Job, carried
from engine.launch.following import follow, look
from engine.launch.ray import Cluster
from engine.memory.heap import keep_one_heap
from engine.paths import Places
from engine.records import HUNG_UP, TERMINATED
from engine.spec import RunSpec
from engine.text import counted, percent, safe_text

EXIT_CODES: dict[Status, int] = {"completed": 0, "failed": 1, "diverged": 1, "stopped": 130}
LEFT = -1  # in an exit code's place: nobody looks any more, and the run goes on
_SAME_SIGNAL_S = 1.0


class View(Protocol):
    def show(self, event: Event) -> None: ...


def train_command(
    spec: RunSpec, places: Places, as_json: bool, quiet: bool = False, cluster: Cluster | None = None,
    begun: Callable[[int], None] = lambda run: None,
) -> int:  # fmt: skip
    """Train `spec` to its end and return the exit code that its status means; `quiet` leaves the final table out, and
    `begun` hears of its run's number.
    """
    if cluster is not None:
        return _follow(partial(carried, Job(places, (spec,), cluster=cluster)), spec, as_json, quiet, elsewhere=True)

    def start(control: RunControl) -> Generator[Event, None, None]:
        from engine.launch.in_process import Lab, run  # 4 to 12 s on a cold start: torch

        return run(spec, Lab(places), control)

    return _follow(start, spec, as_json, quiet, begun=begun)


def resume_command(
    number: int, places: Places, as_json: bool, cluster: Cluster | None = None, detach: bool = False,
    dataset: str | None = None,
) -> int:  # fmt: skip
    """Continue a run that was interrupted, with its images from `dataset` where they have moved, or one that is live
    and paused; of one that is complete it says so.
    """
    record = look(number, places)
    if record.status == "running":
        given = [("--on", cluster), ("--detach", detach), ("--dataset", dataset)]
        option = next((name for name, value in given if value), None)
        if option is not None:
            raise SpecError(f"run {number} is live already and stays where it is; leave out {option}")
        from engine.cli.steering import continue_command

        return continue_command(number, places, as_json)
    if record.status == "completed":
        print(f"run {number} is complete; reslab show {number} shows its figures", file=sys.stderr)
        return 0
    spec, job = RunSpec.from_stored(record.spec), Job(places, resume=number, cluster=cluster, dataset=dataset)
    if detach:
        return _detach(job, as_json)
    if cluster is not None:
        return max(_follow(partial(carried, job), spec, as_json, elsewhere=True), 0)

    def start(control: RunControl) -> Generator[Event, None, None]:
        from engine.launch.in_process import Lab, resume

        return resume(number, Lab(places), control, dataset)

    return _follow(start, spec, as_json)


def attach_command(number: int, places: Places, as_json: bool) -> int:
    """Follow a run that another process carries. ctrl+c leaves it alone."""
    from engine.store.store import Store

    with Store(places.database) as store:
        spec = RunSpec.from_stored(store.run(number).spec)
    return max(_follow(partial(follow, number, places), spec, as_json, elsewhere=True, only_looks=True), 0)


def _detach(job: Job, as_json: bool) -> int:
    """Begin a run and leave it; its number goes to stdout."""
    run = Carrier(job).first(RunControl())
    if as_json:
        print_json({"run": run})
    else:
        print(f"run {run} continues without this terminal; reslab attach {run} follows it")
    return 0


def _follow(
    start: Callable[[RunControl], Generator[Event, None, None]], spec: RunSpec, as_json: bool, quiet: bool = False,
    elsewhere: bool = False, only_looks: bool = False, begun: Callable[[int], None] = lambda run: None,
) -> int:  # fmt: skip
    """Show a run's events to its end. One that is carried `elsewhere` goes on when this terminal goes; who `only_looks`
    leaves it with ctrl+c, too.
    """
    control = RunControl()
    if not elsewhere:
        keep_one_heap()
    with on_signals(control, elsewhere, only_looks), _view(spec, as_json, quiet) as view:
        code = None
        with closing(start(control)) as events:
            for event in events:
                if not shown(view, event) and only_looks:
                    control.leave()
                if terminal_is_gone():  # as after a hang-up
                    control.leave() if elsewhere else control.stop(HUNG_UP)
                if isinstance(event, RunStarted):
                    begun(event.run)
                if isinstance(event, RunEnded):
                    code = EXIT_CODES[event.status]
    if code is None:  # it was not begun
        code = EXIT_CODES["stopped" if control.stop_requested else "failed"]
    return LEFT if control.left else code


def train_all(
    specs: Sequence[RunSpec], places: Places, as_json: bool, cluster: Cluster | None = None, detach: bool = False
) -> int:
    """Train one after another, or on a cluster side by side where each has one worker; the exit code is the first that
    is not 0. A stop, or bad input, ends them all.
    """
    if cluster is not None and cluster.side_by_side and len(specs) > 1:
        from engine.cli.side_by_side import train_side_by_side

        return train_side_by_side(Job(places, tuple(specs), cluster=cluster), as_json, detach)
    if detach:
        if len(specs) > 1:
            raise SpecError("--detach starts one run; add --on ray for several side by side, or leave it out")
        return _detach(Job(places, tuple(specs), cluster=cluster), as_json)
    codes = []
    for number, spec in enumerate(specs, start=1):
        if len(specs) > 1 and not as_json:
            print(
                f"{number}/{len(specs)}: {spec.model} on {safe_text(spec.dataset)}, seed {spec.seed}", file=sys.stderr
            )
        codes.append(train_command(spec, places, as_json, cluster=cluster))
        if codes[-1] in (EXIT_CODES["stopped"], LEFT):
            break
    if LEFT in codes:
        return 0
    return next((code for code in codes if code), 0)


@contextmanager
def on_signals(control: RunControl, elsewhere: bool, only_looks: bool) -> Iterator[None]:
    """The first ctrl+c, SIGTERM or hang-up asks for a clean end, the next one after a while interrupts. A run that is
    carried `elsewhere` is left alone by all but ctrl+c, and by that as well where one `only_looks`.

    What comes at once is the same one, sent to the whole group of processes and handed on by whoever started this one.
    """
    reasons = {signal.SIGTERM: TERMINATED, signal.SIGHUP: HUNG_UP}
    asked_at = -math.inf

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        if elsewhere and (only_looks or number != signal.SIGINT):
            control.leave()
            return
        if control.stop_requested:
            if time.monotonic() - asked_at > _SAME_SIGNAL_S:
                raise KeyboardInterrupt
            return
        asked_at = time.monotonic()
        control.stop(reasons.get(signal.Signals(number)))
        with suppress(OSError):  # after a hang-up there is nobody to tell
            print("reslab: stopping after this step; again to abort", file=sys.stderr)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _view(spec: RunSpec, as_json: bool, quiet: bool) -> Iterator[View]:
    if as_json:
        yield JsonLines()
        return
    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console, refresh_per_second=4,
        disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        yield _Bar(bar, console, spec, quiet)


def shown(view: View, event: Event) -> bool:
    """Show it. False where standard output was lost with it, as by a reader that closed its pipe: that is no reason to
    end a run, whose figures are in the record.
    """
    try:
        view.show(event)
    except OutputError:
        return False
    return True


class JsonLines:
    def show(self, event: Event) -> None:
        print(json_line(to_json_dict(event)), flush=True)


class _Bar:
    """Draws the bar on stderr; the final table goes to stdout."""

    def __init__(self, bar: Progress, console: Console, spec: RunSpec, quiet: bool) -> None:
        self._bar, self._console, self._spec, self._quiet = bar, console, spec, quiet
        self._task = bar.add_task("loading torch", total=None, figures="")
        self._num_steps = 1

    def show(self, event: Event) -> None:
        match event:
            case DatasetProgressed():
                self._update(f"{event.stage} {safe_text(event.dataset, 30)}", event.done, event.total or None)
            case RunStarted():
                self._num_steps = event.num_steps
                changes = ", ".join(event.changes) or "nothing changed"
                val = f", {event.num_val:,} validation" if event.num_val else ""
                self._say(
                    f"run {event.run}: {self._spec.model} on {self._spec.dataset}, {event.num_train:,} training{val} "
                    f"and {counted(event.num_test, 'test image')}\n{changes}, "
                    f"{counted(event.num_parameters, 'parameter')}, {event.resolved.device} "
                    f"({event.resolved.device_reason}), {event.resolved.dtype}"
                    f"{fewer_threads(event.resolved.num_threads, event.resolved.threads_reason)}"
                )
                for line in data_lines(event.notes, event.left_out):
                    self._say(line)
            case StepsCompleted():
                figures = f"loss {event.losses[-1]:.4f}  {event.images / event.train_s:,.0f} img/s"
                title = f"epoch {event.epoch}/{self._spec.epochs}"
                self._update(title, event.last_step, self._num_steps, figures)
            case EpochEnded():
                self._say(
                    f"epoch {event.epoch}: train loss {event.train_loss:.4f}, train accuracy "
                    f"{percent(event.train_accuracy)}, {event.images_per_s:,.0f} images/s"
                )
            case Evaluated():
                moment = f"epoch {event.epoch}" if event.moment == "epoch" else event.moment
                self._say(
                    f"{moment}: {event.split} loss {event.metrics.loss:.4f}, {event.split} accuracy "
                    f"{percent(event.metrics.accuracy)}"
                )
            case SettingsTuned():
                self._say(f"measured for this network and machine{busy_text(event)}: {tuning_text(event)}")
            case TuningChecked():
                if text := checked_text(event):
                    self._say(text)
            case RunPaused():
                self._say(f"run {event.run} is paused; reslab resume {event.run} continues it")
            case RunResumed():
                self._say(f"run {event.run} has resumed")
            case RunContinued():
                self._bar.reset(self._task)  # the past was told in no time: no speed to go by
                self._bar.update(self._task, completed=event.step, total=self._num_steps)
                self._say(continued_text(event))
            case CheckpointFailed():
                self._say(f"step {event.step:,} could not be saved, the run continues: {event.error}")
            case MemoryRecovered():
                why = f"memory ran out at step {event.step:,}" if event.step else "too little memory"
                self._say(f"{why}: {event.action}")
            case RunEnded():
                self._end(event)
            case EvaluationProgressed() | GradientsMeasured() | CheckpointSaved() | MemoryForecasted():
                pass  # shown in the app, and by --json
            case _:
                assert_never(event)

    def _update(self, title: str, done: int, total: int | None, figures: str = "") -> None:
        self._bar.update(self._task, description=title, completed=done, total=total, figures=figures)

    def _say(self, text: str) -> None:
        lines: list[Any] = [Text(safe_text(line)) for line in text.splitlines()]
        self._console.print(*lines, sep="\n", soft_wrap=True)

    def _end(self, event: RunEnded) -> None:
        self._bar.stop()
        speed = f", {event.train_images_per_s:,.0f} images/s" if event.train_images_per_s else ""
        self._say(f"run {event.run} {event.status} after {duration(event.elapsed_s)}{speed}")
        if event.error:
            self._say(event.error)
        if event.untrained and not self._quiet:
            print(columns([("", "UNTRAINED", "TRAINED"), *metric_rows(event.untrained, event.final)], right=(1, 2)))
        for remark in () if self._quiet else event.remarks:
            print(f"note: {safe_text(remark)}")
