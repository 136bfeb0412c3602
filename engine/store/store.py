"""The store of runs: one SQLite file. Callers get values; SQL stays in this folder.

Each thread opens its own `Store`. Transactions are short, so that readers and other processes do not wait long; the
rollback journal is used because SQLite before 3.51.3 can corrupt a write-ahead log with two connections.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, assert_never

from engine import events
from engine.errors import StoreError
from engine.format_number import check_format
from engine.from_plain import from_plain
from engine.memory.calibration import Calibration
from engine.records import (
    LOST,
    Curve,
    Predictions,
    QueueEntry,
    RunDetails,
    RunSummary,
    UnreadableEntry,
    WeightsRecord,
)
from engine.spec import FORMAT, RunSpec
from engine.store import autotune, changes, memory, resumes
from engine.store import heartbeat as heartbeat
from engine.store import queue as waiting
from engine.store.migrations import migrate
from engine.store.rows import (
    EPOCH_COLUMNS,
    LISTED_COLUMNS,
    explained,
    pack,
    read_any_run,
    read_evaluation,
    read_run,
    to_json,
    unless_damaged,
    unpack,
)
from engine.store.seals import is_intact, write_seal

COMMIT_EVERY_S = 1.0  # for curve points: one commit costs an fsync, 1 to 20 ms
_BUSY_MS = 5000
_Written = (
    events.RunStarted | events.RunContinued | events.Evaluated | events.EpochEnded | events.CheckpointSaved
    | events.RunEnded | events.SettingsTuned | events.TuningChecked | events.MemoryForecasted | events.MemoryRecovered
)  # fmt: skip
_log = logging.getLogger("reslab")


class Store:
    """One connection to the database.

    Raises:
        StoreError: from any method, if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._points: list[events.StepsCompleted] = []
        self._committed_at = time.monotonic()
        self._heartbeat = heartbeat.Heartbeat(path)
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            try:
                self._db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                self._db.execute("PRAGMA journal_mode = DELETE")
                self._db.execute("PRAGMA foreign_keys = ON")
                self._db.execute("PRAGMA trusted_schema = OFF")  # the file may come from somebody else
                migrate(self._db, path)
            except BaseException:  # else it would keep its lock until it is garbage-collected
                self._db.close()
                raise
        self._path = path

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._heartbeat.close()
        self._db.close()

    # --- writing -----------------------------------------------------------------------------------------------------

    def create_run(self, spec: RunSpec) -> int:
        """Store that `spec` starts now in this process; returns the run's number."""
        values = (spec.dataset, spec.model, spec.to_json(), time.time(), *heartbeat.own_process())
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO runs (dataset, model, spec, status, created_at, pid, pid_started, place, beat_at) "
                "VALUES (?, ?, ?, 'running', ?, ?, ?, ?, ?)",
                values,
            )
            assert cursor.lastrowid is not None
            self._heartbeat.add(cursor.lastrowid)  # before another thread can see it
        return cursor.lastrowid

    def record(self, event: events.Event) -> None:
        """Write one event; curve points about once a second, retried if that fails. Raises StoreError if the run was
        considered lost and another process has resumed it.
        """
        match event:
            case events.StepsCompleted():
                self._points.append(event)
                if time.monotonic() - self._committed_at >= COMMIT_EVERY_S:
                    self._flush_points()
            case events.DatasetProgressed() | events.EvaluationProgressed() | events.GradientsMeasured():
                pass  # for live views only
            case events.CheckpointFailed() | events.RunPaused() | events.RunResumed():
                pass
            case _:
                self._write_at_once(event)

    def _write_at_once(self, event: _Written) -> None:
        with self._transaction():
            if self._heartbeat.has(event.run):
                heartbeat.check_own(self._db, event.run)
            self._write_points()
            self._write(event)
        self._points.clear()
        if isinstance(event, events.RunEnded):
            self._heartbeat.end(event.run)

    def _flush_points(self) -> None:
        self._committed_at = time.monotonic()
        try:
            with self._transaction():
                self._write_points()
            self._points.clear()
        except StoreError as error:
            _log.warning("curve points could not be written yet: %s", error)

    def _write_points(self) -> None:
        rows = [
            (p.run, p.first_step, p.epoch, p.learning_rate, p.images, p.train_s, pack(p.losses), pack(p.accuracies))
            for p in self._points
        ]
        self._db.executemany("INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _write(self, event: _Written) -> None:
        match event:
            case events.RunStarted():
                self._db.execute("UPDATE runs SET started = ? WHERE run = ?", (to_json(event), event.run))
            case events.EpochEnded():
                mean = (event.train_loss, event.train_accuracy)
                values = (event.run, event.epoch, *mean, event.train_s, event.images_per_s)
                self._db.execute("INSERT INTO epochs VALUES (?, ?, ?, ?, ?, ?)", values)
            case events.Evaluated():
                self._write_evaluation(event)
            case events.CheckpointSaved():
                resumes.write_checkpoint(self._db, event)
            case events.RunContinued():
                resumes.write_continued(self._db, event)
            case events.SettingsTuned() | events.TuningChecked():
                autotune.write(self._db, event)
            case events.MemoryForecasted() | events.MemoryRecovered():
                memory.write(self._db, event)
            case events.RunEnded():
                self._write_end(event)
            case _:
                assert_never(event)

    def _write_evaluation(self, event: events.Evaluated) -> None:
        resumes.forget_predictions(self._db, event)
        head = (event.run, event.split, event.moment, event.epoch, event.step)
        figures = (to_json(event.metrics), to_json(event.per_class), to_json(event.confusion), event.elapsed_s)
        self._db.execute(
            "INSERT INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*head, *figures, event.labels, event.predictions, event.confidences),
        )
        if event.split == "test":
            column = "untrained" if event.moment == "untrained" else "final"
            self._db.execute(f"UPDATE runs SET {column} = ? WHERE run = ?", (to_json(event.metrics), event.run))

    def _write_end(self, event: events.RunEnded) -> None:
        self._db.execute(
            "UPDATE runs SET status = ?, elapsed_s = ?, train_images_per_s = ?, steps = ?, error = ? WHERE run = ?",
            (event.status, event.elapsed_s, event.train_images_per_s, event.steps, event.error, event.run),
        )
        memory.write_end(self._db, event)
        if event.status == "completed":
            resumes.keep_checkpoints(self._db, event.run, 1)
            resumes.forget_all_but_last_predictions(self._db, event.run)
        write_seal(self._db, event.run)

    def reopen(self, run: int, step: int, epochs: int, evaluated: bool, spec: RunSpec | None = None) -> None:
        """Reopen an interrupted run in this process, from its checkpoint at `step`; later rows are deleted.

        `epochs`: complete ones; `evaluated`: whether the last of them was; `spec`: where the images are now. Raises
        StoreError if the run is running already.
        """
        with self._transaction():
            if not resumes.rewind(self._db, run, step, epochs, evaluated, spec):
                raise StoreError(f"run {run} is still running; reslab stop {run} ends it")
            self._heartbeat.add(run)

    def past(self, run: int) -> list[resumes.Past]:
        """A run's stored events so far."""
        with explained(self._path), unless_damaged(run):
            return list(resumes.read_past(self._db, run))

    def checkpoints(self, run: int) -> list[WeightsRecord]:
        """The files that a run can resume from, the newest first."""
        with explained(self._path):
            return resumes.read_checkpoints(self._db, run)

    def delete(self, run: int) -> None:
        """Delete a run's rows; the caller deletes its folder."""
        if self._running(run):
            raise StoreError(f"run {run} is still running; reslab stop {run} ends it")
        with self._transaction():
            self._db.execute("DELETE FROM runs WHERE run = ?", (run,))

    def settle_lost_runs(self) -> None:
        """Mark runs as failed that say "running" but whose process is gone; does nothing without write access."""
        with explained(self._path):
            lost = self._heartbeat.lost(self._db)
        for row in lost:
            try:
                with self._transaction():
                    if heartbeat.settle(self._db, *row, error=LOST):
                        write_seal(self._db, row[0])
            except StoreError as error:
                if not heartbeat.read_only(error.__cause__):
                    raise
                return

    # --- the queue ---------------------------------------------------------------------------------------------------

    def enqueue(self, specs: Sequence[RunSpec]) -> None:
        """Put specs at the end of the queue, in their order."""
        with self._transaction():
            waiting.append(self._db, specs)

    def waiting(self) -> list[QueueEntry]:
        """The queue, the next entry first, without unreadable ones."""
        with explained(self._path):
            return list(waiting.read(self._db))

    def first_waiting(self, on_hold: Collection[int] = ()) -> QueueEntry | None:
        """The first entry that is not `on_hold`, without removing it."""
        with explained(self._path):
            return waiting.first(self._db, on_hold)

    def unreadable_waiting(self) -> list[UnreadableEntry]:
        """Queue entries that cannot be read, of a newer reslab or damaged. They stay in the queue."""
        with explained(self._path):
            return waiting.read_unreadable(self._db)

    def take_next(self, number: int | None = None, on_hold: Collection[int] = ()) -> RunSpec | None:
        """Remove and return the first entry that is not `on_hold`; with `number`, only if it is that entry. No other
        process gets the same one.
        """
        with self._transaction():
            return waiting.take_first(self._db, number, on_hold)

    def remove_waiting(self, number: int) -> None:
        with self._transaction():
            waiting.remove(self._db, number)

    def move_waiting(self, number: int, by: int) -> None:
        """Swap an entry with the one before it (-1) or after it (1), if there is one."""
        with self._transaction():
            waiting.move(self._db, number, by)

    # --- reading -----------------------------------------------------------------------------------------------------

    def runs(self) -> list[RunSummary]:
        """Every run, newest first; one whose row is damaged has the status "damaged"."""
        return [read_any_run(row) for row in self.query(f"SELECT {LISTED_COLUMNS} FROM runs ORDER BY run DESC")]

    def run(self, run: int) -> RunSummary:
        """One run as a list shows it. Raises StoreError if there is no such run, or its row is damaged."""
        rows = self.query(f"SELECT {LISTED_COLUMNS} FROM runs WHERE run = ?", run)
        if not rows:
            raise StoreError(f"there is no run {run}, or it was deleted")
        with unless_damaged(run):
            return read_run(rows[0])

    def details(self, run: int) -> RunDetails:
        """Everything stored about one run, except predictions.

        Raises:
            StoreError: there is no such run, a newer reslab wrote its spec, or its rows are damaged.
        """
        with unless_damaged(run):
            return self._details(run)

    def _details(self, run: int) -> RunDetails:
        record = self.run(run)
        check_format(record.spec, FORMAT, f"the spec of run {run}", StoreError)
        (started,) = self.query("SELECT started FROM runs WHERE run = ?", run)[0]
        epochs = self.query(f"SELECT {EPOCH_COLUMNS} FROM epochs WHERE run = ? ORDER BY epoch", run)
        evaluations = self.query(
            "SELECT split, moment, epoch, step, metrics, per_class, confusion, elapsed_s "
            "FROM evaluations WHERE run = ? ORDER BY epoch, step, rowid",
            run,
        )
        weights = self.checkpoints(run)
        with explained(self._path):
            of_memory, resumed = memory.read(self._db, run), resumes.read_resumes(self._db, run)
            change = changes.read(self._db, run)
        return RunDetails(
            record=record,
            started=from_plain(events.RunStarted, json.loads(started)) if started else None,
            epochs=tuple(events.EpochEnded(*row) for row in epochs),
            evaluations=tuple(read_evaluation(row) for row in evaluations),
            curve=self._curve(run),
            weights=weights[0] if weights else None,
            memory=of_memory,
            intact=self.intact(run),
            resumes=resumed,
            change=change,
        )

    def predictions(self, run: int) -> Predictions:
        """The final predictions of a run's test images.

        Raises:
            StoreError: there is no such run, it was changed after its end, or it ended before any evaluation.
        """
        self.run(run)
        if self.intact(run) is False:
            raise StoreError(f"run {run} was changed after it ended; do not trust its predictions")
        rows = self.query(
            "SELECT labels, predictions, confidences FROM evaluations "
            "WHERE run = ? AND split = 'test' AND moment != 'untrained' AND labels IS NOT NULL "
            "ORDER BY step DESC, rowid DESC LIMIT 1",
            run,
        )
        if not rows:
            raise StoreError(f"run {run} has no predictions: it was not evaluated on the test set after training")
        labels, predictions, confidences = rows[0]
        with unless_damaged(run):
            return Predictions(unpack("H", labels), unpack("H", predictions), unpack("f", confidences))

    def compared(self, runs: Sequence[int]) -> list[tuple[RunDetails, Predictions]]:
        """What a comparison needs of each run: its details and its final predictions."""
        return [(self.details(run), self.predictions(run)) for run in runs]

    def intact(self, run: int) -> bool | None:
        """Whether a run's rows are unchanged since its end; None while it has no seal."""
        with explained(self._path):
            return is_intact(self._db, run)

    def calibration(self, device_name: str) -> Calibration | None:
        """How the latest runs on this GPU correct its forecasts; None without any."""
        with explained(self._path):
            return memory.calibration(self._db, device_name)

    def autotune_choices(self, run: int = 0) -> dict[str, events.SettingsTuned]:
        """The settings measured to be fastest on this machine, by key, as events of `run`."""
        with explained(self._path):
            return autotune.read(self._db, run)

    def forget_autotune_choices(self) -> int:
        """Delete all choices, so that later runs measure again; returns how many there were."""
        with self._transaction():
            return autotune.forget(self._db)

    def _curve(self, run: int) -> Curve:
        rows = self.query("SELECT losses, accuracies FROM steps WHERE run = ? ORDER BY first_step", run)
        return Curve(*(unpack("d", b"".join(column)) for column in (zip(*rows, strict=True) if rows else ((), ()))))

    def _running(self, run: int) -> bool:
        self.settle_lost_runs()
        return self.run(run).status == "running"

    def query(self, query: str, *arguments: Any) -> list[Any]:
        with explained(self._path):
            return self._db.execute(query, arguments).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explained(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:  # a COMMIT too may fail, and leave the transaction open
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
