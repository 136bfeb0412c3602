"""`reslab train` with several runs on a cluster: they start as there is room, and their lines name the run."""

from __future__ import annotations

import queue
import sys
import threading
from typing import assert_never

from engine import events
from engine.analysis.tables import continued_text, data_lines, duration
from engine.catalog.models import short_model
from engine.cli.output import print_json
from engine.cli.parser import columns
from engine.cli.training import EXIT_CODES, JsonLines, View, on_signals, shown
from engine.control import RunControl
from engine.errors import ReslabError
from engine.launch.detached import DetachedProcess, Order
from engine.launch.follow import follow
from engine.text import counted, percent, safe_text

_LISTEN_S = 0.2
_Item = events.Event | ReslabError | None  # None: all have ended


def train_side_by_side(order: Order, as_json: bool, detach: bool) -> int:
    """Start them detached, and follow them all; the exit code is the first that is not 0."""
    process = DetachedProcess(order)
    if detach:
        first = process.first(RunControl())
        if as_json:
            print_json({"run": first})
        else:
            print(
                f"{counted(len(order.jobs), 'run')} continue without this terminal, starting with run {first}; "
                "reslab runs lists them"
            )
        return 0
    control, pending = RunControl(), queue.Queue[_Item]()
    threading.Thread(target=_follow_all, args=(process, order, control, pending), name="runs", daemon=True).start()
    view: View = JsonLines() if as_json else Lines()
    codes = []
    with on_signals(control, elsewhere=True, only_looks=False):
        stopped = False
        while not control.left:
            if control.stop_requested and not stopped:
                process.stop()
                stopped = True
            try:
                event = pending.get(timeout=_LISTEN_S)
            except queue.Empty:
                continue
            if event is None:
                break
            if isinstance(event, ReslabError):
                raise event
            shown(view, event)
            if isinstance(event, events.RunEnded):
                codes.append(EXIT_CODES[event.status])
    if isinstance(view, Lines):
        view.table()
    if control.left:
        return 0
    if len(codes) < len(order.jobs) and not any(codes):  # some were not started
        return EXIT_CODES["stopped"] if control.stop_requested else EXIT_CODES["failed"]
    return next((code for code in codes if code), 0)


def _follow_all(process: DetachedProcess, order: Order, control: RunControl, pending: queue.Queue[_Item]) -> None:
    threads = []
    try:
        for run in process.runs(least=0):
            thread = threading.Thread(target=_follow_one, args=(run, order, control, pending), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        pending.put(None)
    except ReslabError as error:
        pending.put(error)


def _follow_one(run: int, order: Order, control: RunControl, pending: queue.Queue[_Item]) -> None:
    try:
        for event in follow(run, order.folders, control, just_started=True):
            pending.put(event)
    except ReslabError as error:  # it ended before it could be followed
        print(f"reslab: {safe_text(error)}", file=sys.stderr)


class Lines:
    """Prints a line to stderr for each event of interest; the final table goes to stdout."""

    def __init__(self) -> None:
        self._started: dict[int, events.RunStarted] = {}
        self._ended: dict[int, events.RunEnded] = {}

    def show(self, event: events.Event) -> None:
        started = self._started.get(event.run)
        match event:
            case events.RunStarted():
                self._started[event.run] = event
                self._print(event, f"{_what(event)}, {event.resolved.workers}, {event.resolved.device}")
                for line in data_lines(event.notes, event.left_out):
                    self._print(event, line)
            case events.Evaluated():
                epochs = started.spec.get("epochs", "?") if started else "?"
                accuracy = percent(event.metrics.accuracy)
                self._print(event, f"epoch {event.epoch}/{epochs}, {event.split} accuracy {accuracy}")
            case events.RunPaused():
                self._print(event, f"paused; reslab resume {event.run} continues it")
            case events.RunResumed():
                self._print(event, "resumed")
            case events.RunContinued():
                self._print(event, continued_text(event))
            case events.MemoryRecovered():
                self._print(event, f"memory ran out: {event.action}")
            case events.CheckpointFailed():
                self._print(event, f"step {event.step:,} could not be saved, the run continues: {event.error}")
            case events.RunEnded():
                self._ended[event.run] = event
                self._print(event, f"{event.status} after {duration(event.elapsed_s)}")
                if event.error:
                    self._print(event, event.error)
            case (
                events.DatasetProgressed()
                | events.EvaluationProgressed()
                | events.StepsCompleted()
                | events.EpochEnded()
            ):
                pass  # with several runs at once, one line per epoch is enough
            case (
                events.GradientsMeasured()
                | events.CheckpointSaved()
                | events.SettingsTuned()
                | events.TuningChecked()
                | events.MemoryForecasted()
            ):
                pass
            case _:
                assert_never(event)

    def table(self) -> None:
        rows: list[tuple[str, ...]] = [("RUN", "DATASET", "MODEL", "SEED", "STATUS", "UNTRAINED", "FINAL", "WHERE")]
        for run, ended in sorted(self._ended.items()):
            started = self._started.get(run)
            spec = started.spec if started else {}
            figures = [percent(found.accuracy) if found else "–" for found in (ended.untrained, ended.final)]
            names = (str(spec.get(name, "?")) for name in ("dataset", "model", "seed"))
            rows.append((str(run), *names, ended.status, *figures, started.resolved.workers if started else "–"))
        print(columns([tuple(map(safe_text, row)) for row in rows], right=(0, 3, 5, 6)))

    def _print(self, event: events.Event, text: str) -> None:
        print(safe_text(f"run {event.run}: {text}"), file=sys.stderr, flush=True)


def _what(event: events.RunStarted) -> str:
    return f"{short_model(str(event.spec.get('model')))} on {event.spec.get('dataset')}, seed {event.spec.get('seed')}"
