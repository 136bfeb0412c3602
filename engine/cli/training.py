"""`reslab train`: a progress bar on a terminal, lines in a pipe, or one JSON event per line."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Protocol, assert_never

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from engine.analysis.tables import (
    busy_text,
    checked_text,
    choice_text,
    continued_text,
    data_lines,
    duration,
    fewer_threads,
    metric_rows,
)
from engine.catalog.models import short_model
from engine.cli.notices import announce_code
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
from engine.lab import Lab
from engine.launch.backend import Job
from engine.launch.detached import DetachedProcess, Order
from engine.launch.ray import Cluster
from engine.memory.heap import keep_one_heap
from engine.paths import Folders
from engine.records import HUNG_UP, TERMINATED
from engine.spec import RunSpec
from engine.text import counted, percent, safe_text

EXIT_CODES: dict[Status, int] = {"completed": 0, "failed": 1, "diverged": 1, "stopped": 130}
SAME_SIGNAL_S = 1.0


class View(Protocol):
    def show(self, event: Event) -> None: ...


def resume_command(
    number: int, folders: Folders, as_json: bool, cluster: Cluster | None = None, detach: bool = False,
    dataset: str | None = None,
) -> int:  # fmt: skip
    """Continue an interrupted run, with its images from `dataset` if they have moved, or one that is live and paused. A
    completed run is left alone.
    """
    lab = Lab(folders, cluster=cluster)
    record = lab.summary(number)
    if record.status == "running":
        given = [("--on", cluster), ("--detach", detach), ("--dataset", dataset)]
        option = next((name for name, value in given if value), None)
        if option is not None:
            raise SpecError(f"run {number} is live already and cannot move; leave out {option}")
        from engine.cli.control import continue_command

        return continue_command(number, lab, as_json)
    if record.status == "completed":
        print(f"run {number} is complete; reslab show {number} shows its figures", file=sys.stderr)
        return 0
    job = Job(lab.spec(number), number, dataset)
    announce_code([(job.spec.dataset, job.spec.model)])
    if detach:
        return _detach(Order(folders, (job,), cluster), as_json)

    def start(control: RunControl) -> Generator[Event, None, None]:
        return lab.resume(number, control, dataset).events()

    return show_events(start, (job.spec,), Watch(lab.backend.survives, as_json=as_json))


def attach_command(number: int, folders: Folders, as_json: bool) -> int:
    """Follow a run in another process. ctrl+c leaves it alone."""
    lab = Lab(folders)
    spec = lab.spec(number)

    def start(control: RunControl) -> Generator[Event, None, None]:
        return lab.attach(number, control).events()

    return show_events(start, (spec,), Watch(survives=True, only_looks=True, as_json=as_json))


def _detach(order: Order, as_json: bool) -> int:
    """Start a run and leave it; its number goes to stdout."""
    run = DetachedProcess(order).first(RunControl())
    if as_json:
        print_json({"run": run})
    else:
        print(f"run {run} continues without this terminal; reslab attach {run} follows it")
    return 0


def train_all(
    specs: Sequence[RunSpec], folders: Folders, as_json: bool, cluster: Cluster | None = None, detach: bool = False
) -> int:
    """Train one after another, or, on a cluster with one worker each, side by side; the exit code is the first that is
    not 0. A stop, or bad input, ends them all.
    """
    order = Order(folders, tuple(map(Job, specs)), cluster)
    if cluster is not None and cluster.side_by_side and len(specs) > 1:
        from engine.cli.side_by_side import train_side_by_side

        return train_side_by_side(order, as_json, detach)
    if detach:
        if len(specs) > 1:
            raise SpecError("--detach starts one run; add --on ray for several side by side, or leave it out")
        return _detach(order, as_json)

    return train_in_turn(specs, Lab(folders, cluster=cluster), Watch(as_json=as_json))


def train_in_turn(specs: Sequence[RunSpec], lab: Lab, watch: Watch) -> int:
    """Train one after another and show each; returns the first exit code that is not 0."""
    return show_events(lab.train_all(specs).events, specs, replace(watch, survives=lab.backend.survives))


@dataclass(frozen=True, slots=True)
class Watch:
    """How events are shown. With `survives`, runs continue when the terminal closes; ctrl+c still stops them, unless
    this process only follows (`only_looks`). `is_quiet` omits the final tables, `needs_all` stops at the first run that
    does not complete, `seen` is called with each event, and `title` precedes the line that names each of several runs.
    """

    survives: bool = False
    only_looks: bool = False
    as_json: bool = False
    is_quiet: bool = False
    needs_all: bool = False
    title: str = ""
    seen: Callable[[Event], None] = lambda event: None


def show_events(
    start: Callable[[RunControl], Generator[Event, None, None]], specs: Sequence[RunSpec], watch: Watch
) -> int:
    """Show the events of the runs of `specs`, one after another, to the end of the last one, or of the first that was
    stopped; returns the exit code.
    """
    control, codes = RunControl(), list[int]()
    if not watch.survives:
        keep_one_heap()
    with on_signals(control, watch.survives, watch.only_looks), closing(start(control)) as events:
        rest = iter(events)
        for number, spec in enumerate(specs, start=1):
            if (len(specs) > 1 or watch.title) and not watch.as_json:
                what = f"{safe_text(short_model(spec.model))} on {safe_text(spec.dataset)}, seed {spec.seed}"
                print(f"{watch.title} {number}/{len(specs)}: {what}".strip(), file=sys.stderr)
            with _view(spec, watch.as_json, watch.is_quiet) as view:
                code = _show_one(rest, view, control, watch)
            if code is None:  # it was not started
                code = EXIT_CODES["stopped" if control.stop_requested else "failed"]
            codes.append(code)
            if control.left:
                return 0
            if code == EXIT_CODES["stopped"] or (watch.needs_all and code):
                break
    return next((code for code in codes if code), 0)


def _show_one(events: Iterator[Event], view: View, control: RunControl, watch: Watch) -> int | None:
    """Show one run's events to its end; returns the exit code for its status."""
    for event in events:
        if not shown(view, event) and watch.only_looks:
            control.leave()
        if terminal_is_gone():  # as after a hang-up
            control.leave() if watch.survives else control.stop(HUNG_UP)
        watch.seen(event)
        if isinstance(event, RunEnded):
            return EXIT_CODES[event.status]
    return None


@contextmanager
def on_signals(control: RunControl, elsewhere: bool, only_looks: bool) -> Iterator[None]:
    """The first ctrl+c, SIGTERM or hang-up requests a clean end; another one, over a second later, interrupts. On a run
    `elsewhere` only ctrl+c acts, and with `only_looks` no signal does.

    Repeats within a second count as one: the process group and the parent may both deliver the same signal.
    """
    reasons = {signal.SIGTERM: TERMINATED, signal.SIGHUP: HUNG_UP}
    requested_at = -math.inf

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal requested_at
        if elsewhere and (only_looks or number != signal.SIGINT):
            control.leave()
            return
        if control.stop_requested:
            if time.monotonic() - requested_at > SAME_SIGNAL_S:
                raise KeyboardInterrupt
            return
        requested_at = time.monotonic()
        control.stop(reasons.get(signal.Signals(number)))
        with suppress(OSError):  # after a hang-up there is no terminal
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
    """Show an event. False if standard output was lost, for example because its reader closed the pipe: the run
    continues, because the store has its figures.
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
                if event.note:
                    self._print(event.note)
                self._update(f"{event.stage} {safe_text(event.dataset, 30)}", event.done, event.total or None)
            case RunStarted():
                self._num_steps = event.num_steps
                changes = ", ".join(event.changes) or "nothing changed"
                what = f"{short_model(self._spec.model)} on {self._spec.dataset}"
                val = f", {event.num_val:,} validation" if event.num_val else ""
                self._print(
                    f"run {event.run}: {what}, {event.num_train:,} training{val} "
                    f"and {counted(event.num_test, 'test image')}\n{changes}, "
                    f"{counted(event.num_parameters, 'parameter')}, {event.resolved.device} "
                    f"({event.resolved.device_reason}), {event.resolved.dtype}"
                    f"{fewer_threads(event.resolved.num_threads, event.resolved.threads_reason)}"
                )
                for line in data_lines(event.notes, event.left_out):
                    self._print(line)
            case StepsCompleted():
                figures = f"loss {event.losses[-1]:.4f}  {event.images / event.train_s:,.0f} img/s"
                title = f"epoch {event.epoch}/{self._spec.epochs}"
                self._update(title, event.last_step, self._num_steps, figures)
            case EpochEnded():
                self._print(
                    f"epoch {event.epoch}: train loss {event.train_loss:.4f}, train accuracy "
                    f"{percent(event.train_accuracy)}, {event.images_per_s:,.0f} images/s"
                )
            case Evaluated():
                moment = f"epoch {event.epoch}" if event.moment == "epoch" else event.moment
                self._print(
                    f"{moment}: {event.split} loss {event.metrics.loss:.4f}, {event.split} accuracy "
                    f"{percent(event.metrics.accuracy)}"
                )
            case SettingsTuned():
                self._print(f"measured for this network and machine{busy_text(event)}: {choice_text(event)}")
            case TuningChecked():
                if text := checked_text(event):
                    self._print(text)
            case RunPaused():
                self._print(f"run {event.run} is paused; reslab resume {event.run} continues it")
            case RunResumed():
                self._print(f"run {event.run} has resumed")
            case RunContinued():
                self._bar.reset(self._task)  # past events came at once, so their speed means nothing
                self._bar.update(self._task, completed=event.step, total=self._num_steps)
                self._print(continued_text(event))
            case CheckpointFailed():
                self._print(f"step {event.step:,} could not be saved, the run continues: {event.error}")
            case MemoryRecovered():
                why = f"memory ran out at step {event.step:,}" if event.step else "too little memory"
                self._print(f"{why}: {event.action}")
            case RunEnded():
                self._end(event)
            case EvaluationProgressed() | GradientsMeasured() | CheckpointSaved() | MemoryForecasted():
                pass  # shown in the app, and by --json
            case _:
                assert_never(event)

    def _update(self, title: str, done: int, total: int | None, figures: str = "") -> None:
        self._bar.update(self._task, description=title, completed=done, total=total, figures=figures)

    def _print(self, text: str) -> None:
        lines: list[Any] = [Text(safe_text(line)) for line in text.splitlines()]
        self._console.print(*lines, sep="\n", soft_wrap=True)

    def _end(self, event: RunEnded) -> None:
        self._bar.stop()
        speed = f", {event.train_images_per_s:,.0f} images/s" if event.train_images_per_s else ""
        self._print(f"run {event.run} {event.status} after {duration(event.elapsed_s)}{speed}")
        if event.error:
            self._print(event.error)
        if event.untrained and not self._quiet:
            print(columns([("", "UNTRAINED", "TRAINED"), *metric_rows(event.untrained, event.final)], right=(1, 2)))
        elif event.final and not self._quiet:
            print(columns([("", "EVALUATED"), *metric_rows(event.final)], right=(1,)))
        for remark in () if self._quiet else event.remarks:
            print(f"note: {safe_text(remark)}")
