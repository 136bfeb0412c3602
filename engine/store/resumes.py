"""Rows of interrupted and resumed runs: checkpoints, past events, and what a resume deletes."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from engine.events import CheckpointSaved, EpochEnded, Evaluated, RunContinued, StepsCompleted
from engine.records import ResumeRecord, WeightsRecord
from engine.spec import RunSpec, unknown_settings
from engine.store import heartbeat as heartbeat
from engine.store.rows import EPOCH_COLUMNS, pack, read_evaluation, unpack

_GENERATIONS = 2  # checkpoints kept until the run completes, because the newest may be damaged
Past = Evaluated | StepsCompleted | EpochEnded


def write_checkpoint(db: sqlite3.Connection, event: CheckpointSaved) -> None:
    """Store a checkpoint's row; only the newest rows are kept."""
    file = (event.run, event.file, event.sha256, event.epoch, event.step, event.num_bytes)
    db.execute("INSERT OR REPLACE INTO weights VALUES (?, ?, ?, ?, ?, ?)", file)
    keep_checkpoints(db, event.run, _GENERATIONS)


def keep_checkpoints(db: sqlite3.Connection, run: int, number: int) -> None:
    db.execute(
        "DELETE FROM weights WHERE run = ? AND step NOT IN "
        "(SELECT step FROM weights WHERE run = ? ORDER BY step DESC LIMIT ?)",
        (run, run, number),
    )


def read_checkpoints(db: sqlite3.Connection, run: int) -> list[WeightsRecord]:
    """The newest first. Only file names are used: checkpoints are always in the run's own folder."""
    rows = db.execute(
        "SELECT file, sha256, epoch, step, num_bytes FROM weights WHERE run = ? ORDER BY step DESC", (run,)
    ).fetchall()
    return [WeightsRecord(Path(file).name, *rest) for file, *rest in rows]


def write_continued(db: sqlite3.Connection, event: RunContinued) -> None:
    delete_after(db, event.run, event.step, event.epochs_done, event.evaluated)
    values = (event.run, event.step, time.time(), json.dumps(event.differs))
    db.execute("INSERT INTO resumes VALUES (?, ?, ?, ?)", values)


def read_resumes(db: sqlite3.Connection, run: int) -> tuple[ResumeRecord, ...]:
    rows = db.execute("SELECT step, differs FROM resumes WHERE run = ? ORDER BY rowid", (run,)).fetchall()
    return tuple(ResumeRecord(step, tuple(json.loads(differs))) for step, differs in rows)


def forget_predictions(db: sqlite3.Connection, event: Evaluated) -> None:
    """Keep a split's predictions for this evaluation and for those that a resume may return to; delete the others."""
    db.execute(
        "UPDATE evaluations SET labels = NULL, predictions = NULL, confidences = NULL "
        "WHERE run = :run AND split = :split AND moment != 'untrained' AND step < COALESCE("
        "(SELECT MAX(step) FROM evaluations WHERE run = :run AND split = :split "
        "AND step <= (SELECT MIN(step) FROM weights WHERE run = :run)), :step)",
        {"run": event.run, "split": event.split, "step": event.step},
    )


def forget_all_but_last_predictions(db: sqlite3.Connection, run: int) -> None:
    db.execute(
        "UPDATE evaluations SET labels = NULL, predictions = NULL, confidences = NULL "
        "WHERE run = :run AND moment != 'untrained' AND step < "
        "(SELECT MAX(step) FROM evaluations AS later WHERE later.run = :run AND later.split = evaluations.split)",
        {"run": run},
    )


def rewind(
    db: sqlite3.Connection, run: int, step: int, epochs: int, evaluated: bool, spec: RunSpec | None = None
) -> bool:
    """Reopen a run in this process, and delete what was stored after its checkpoint at `step`, where `epochs` epochs
    were complete, the last one `evaluated` or not. False, with nothing changed, if it is running already. `spec` names
    where its images are now.
    """
    taken = db.execute(
        "UPDATE runs SET status = 'running', pid = ?, pid_started = ?, place = ?, beat_at = ? "
        "WHERE run = ? AND status != 'running'",
        (*heartbeat.own_process(), run),
    )
    if taken.rowcount == 0:
        return False
    delete_after(db, run, step, epochs, evaluated)
    if spec is not None:
        ((stored,),) = db.execute("SELECT spec FROM runs WHERE run = ?", (run,)).fetchall()
        text = spec.to_json(unknown_settings(json.loads(stored)))
        db.execute("UPDATE runs SET dataset = ?, spec = ? WHERE run = ?", (spec.dataset, text, run))
    untrained, final = (
        db.execute(
            f"SELECT metrics FROM evaluations WHERE run = ? AND split = 'test' AND moment {sign} 'untrained' "
            "ORDER BY step DESC, rowid DESC LIMIT 1",
            (run,),
        ).fetchone()
        or (None,)
        for sign in ("=", "!=")
    )
    db.execute(
        "UPDATE runs SET error = NULL, seal = NULL, elapsed_s = NULL, train_images_per_s = NULL, steps = NULL, "
        "untrained = ?, final = ? WHERE run = ?",
        (*untrained, *final, run),
    )
    return True


def delete_after(db: sqlite3.Connection, run: int, step: int, epochs: int, evaluated: bool) -> None:
    """Delete what was stored after `step`, so that repeated steps are not stored twice."""
    db.execute("DELETE FROM memory WHERE run = ?", (run,))
    db.execute("DELETE FROM weights WHERE run = ? AND step > ?", (run, step))
    db.execute("DELETE FROM recoveries WHERE run = ? AND (step > ? OR ? = 0)", (run, step, step))
    db.execute("DELETE FROM epochs WHERE run = ? AND epoch > ?", (run, epochs))
    db.execute(
        "DELETE FROM evaluations WHERE run = ? AND (epoch > ? OR (epoch = ? AND NOT ?))",
        (run, epochs, epochs, evaluated),
    )
    db.execute("DELETE FROM steps WHERE run = ? AND first_step > ?", (run, step))
    _cut_last_points(db, run, step)


def _cut_last_points(db: sqlite3.Connection, run: int, step: int) -> None:
    """A row has the points of a tenth of a second, so the last one may reach beyond `step`."""
    row = db.execute(
        "SELECT first_step, losses, accuracies FROM steps WHERE run = ? ORDER BY first_step DESC LIMIT 1", (run,)
    ).fetchone()
    if row is None:
        return
    first_step, losses, accuracies = row
    kept = step - first_step + 1
    cut = (pack(unpack("d", losses)[:kept]), pack(unpack("d", accuracies)[:kept]))
    db.execute("UPDATE steps SET losses = ?, accuracies = ? WHERE run = ? AND first_step = ?", (*cut, run, first_step))


def read_past(db: sqlite3.Connection, run: int) -> Iterator[Past]:
    """A run's stored events, in order, without predictions."""
    found: list[tuple[int, int, Past]] = []
    columns = "first_step, epoch, learning_rate, images, train_s, losses, accuracies"
    for row in db.execute(f"SELECT {columns} FROM steps WHERE run = ? ORDER BY first_step", (run,)):
        first_step, epoch, rate, images, train_s, losses, accuracies = row
        points = (tuple(unpack("d", losses)), tuple(unpack("d", accuracies)))
        event = StepsCompleted(run, epoch, first_step, *points, rate, images, train_s)
        found.append((event.last_step, 0, event))
    last_steps = {event.epoch: event.last_step for _, _, event in found if isinstance(event, StepsCompleted)}
    for row in db.execute(f"SELECT {EPOCH_COLUMNS} FROM epochs WHERE run = ? ORDER BY epoch", (run,)):
        ended = EpochEnded(*row)
        found.append((last_steps[ended.epoch], 1, ended))
    columns = "split, moment, epoch, step, metrics, per_class, confusion, elapsed_s"
    for row in db.execute(f"SELECT {columns} FROM evaluations WHERE run = ? ORDER BY rowid", (run,)):
        item = read_evaluation(row)
        evaluated = Evaluated(
            run, item.split, item.moment, item.epoch, item.step, item.metrics, item.per_class, item.confusion,
            item.elapsed_s,
        )  # fmt: skip
        found.append((item.step, 2, evaluated))
    yield from (event for _, _, event in sorted(found, key=lambda entry: entry[:2]))
