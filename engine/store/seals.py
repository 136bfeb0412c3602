"""The seal of an ended run: a SHA-256 over its rows, which shows whether any was changed since."""

from __future__ import annotations

import hashlib
import sqlite3

# Columns are named, so that later ones do not break older seals. Names and order must not change.
_RUN = (
    "run, dataset, model, status, created_at, spec, untrained, final, train_images_per_s, elapsed_s, steps, error, "
    "started"
)
_SEALED = {
    "steps": "run, first_step, epoch, learning_rate, images, train_s, losses, accuracies",
    "epochs": "run, epoch, train_loss, train_accuracy, train_s, images_per_s",
    "evaluations": (
        "run, split, moment, epoch, step, metrics, per_class, confusion, elapsed_s, labels, predictions, confidences"
    ),
    "weights": "run, file, sha256, epoch, step, num_bytes",
    "memory": "run, forecast, device_name, peak_bytes, context_bytes",
    "recoveries": "run, step, action, micro_batch, recomputing, freed_bytes",
    "resumes": "run, step, resumed_at, differs",
}


def write_seal(db: sqlite3.Connection, run: int) -> None:
    """Seal a run's current rows."""
    db.execute("UPDATE runs SET seal = ? WHERE run = ?", (_digest(db, run), run))


def is_intact(db: sqlite3.Connection, run: int) -> bool | None:
    """Whether a run's rows are unchanged since they were sealed; None if it has no seal, or does not exist."""
    row = db.execute("SELECT seal FROM runs WHERE run = ?", (run,)).fetchone()
    return None if row is None or row[0] is None else bool(row[0] == _digest(db, run))


def _digest(db: sqlite3.Connection, run: int) -> str:
    digest = hashlib.sha256()
    row = db.execute(f"SELECT {_RUN} FROM runs WHERE run = ?", (run,)).fetchone()
    digest.update(repr(row).encode())
    for table, columns in _SEALED.items():
        for row in db.execute(f"SELECT {columns} FROM {table} WHERE run = ? ORDER BY rowid", (run,)):
            digest.update(repr(row).encode())
    return digest.hexdigest()
