"""The database's layout, as migration steps. A released step is never changed; changes are new steps.

Steps are split at semicolons, so their comments must not contain any."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from engine.errors import StoreError

STEPS: tuple[str, ...] = (
    """
    CREATE TABLE runs (
        run INTEGER PRIMARY KEY AUTOINCREMENT,  -- a number is never given twice, even after a deletion
        dataset TEXT NOT NULL,
        model TEXT NOT NULL,
        spec TEXT NOT NULL,
        status TEXT NOT NULL,                   -- running, completed, stopped, diverged, failed
        created_at REAL NOT NULL,               -- seconds since 1970
        pid INTEGER NOT NULL,
        pid_started REAL NOT NULL,
        started TEXT,                           -- RunStarted as JSON
        untrained TEXT,                         -- Metrics as JSON
        final TEXT,
        elapsed_s REAL,
        train_images_per_s REAL,
        steps INTEGER,
        error TEXT,
        seal TEXT                               -- SHA-256 of this run's rows, once it has ended
    );
    CREATE TABLE steps (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        first_step INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        learning_rate REAL NOT NULL,
        images INTEGER NOT NULL,
        train_s REAL NOT NULL,
        losses BLOB NOT NULL,                   -- little-endian float64, one a step
        accuracies BLOB NOT NULL,
        PRIMARY KEY (run, first_step)
    );
    CREATE TABLE epochs (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        epoch INTEGER NOT NULL,
        train_loss REAL NOT NULL,
        train_accuracy REAL NOT NULL,
        train_s REAL NOT NULL,
        images_per_s REAL NOT NULL,
        PRIMARY KEY (run, epoch)
    );
    CREATE TABLE evaluations (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        split TEXT NOT NULL,
        moment TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        step INTEGER NOT NULL,
        metrics TEXT NOT NULL,
        per_class TEXT NOT NULL,
        confusion TEXT NOT NULL,
        elapsed_s REAL NOT NULL,
        labels BLOB,                            -- kept for the untrained and the latest evaluation of a split
        predictions BLOB,
        confidences BLOB,
        PRIMARY KEY (run, split, moment, epoch)
    );
    CREATE TABLE weights (
        run INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
        file TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        step INTEGER NOT NULL,
        num_bytes INTEGER NOT NULL
    );
    """,
    """
    CREATE TABLE queue (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        place REAL NOT NULL,                    -- the order
        spec TEXT NOT NULL
    );
    """,
    """
    CREATE TABLE memory (
        run INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
        forecast TEXT NOT NULL,                 -- MemoryForecasted as JSON
        device_name TEXT NOT NULL,
        peak_bytes INTEGER,                     -- measured
        context_bytes INTEGER
    );
    CREATE TABLE recoveries (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        step INTEGER NOT NULL,
        action TEXT NOT NULL,
        micro_batch INTEGER,
        recomputing INTEGER NOT NULL,
        freed_bytes INTEGER NOT NULL
    );
    """,
    """
    CREATE TABLE tunings (
        key TEXT PRIMARY KEY,                   -- processor, version of torch, network, images, batch
        dtype TEXT NOT NULL,
        memory_format TEXT NOT NULL,
        num_threads INTEGER NOT NULL,
        gain REAL NOT NULL
    );
    """,
    """
    ALTER TABLE weights RENAME TO old_weights;
    CREATE TABLE weights (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        file TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        step INTEGER NOT NULL,
        num_bytes INTEGER NOT NULL,
        PRIMARY KEY (run, step)
    );
    INSERT INTO weights SELECT run, file, sha256, epoch, step, num_bytes FROM old_weights;
    DROP TABLE old_weights;
    CREATE TABLE resumes (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        step INTEGER NOT NULL,
        resumed_at REAL NOT NULL,               -- seconds since 1970
        differs TEXT NOT NULL                   -- JSON: what was not as before, in words
    );
    """,
    """
    ALTER TABLE runs ADD COLUMN place TEXT NOT NULL DEFAULT '';  -- where pid and pid_started mean something
    ALTER TABLE runs ADD COLUMN beat_at REAL NOT NULL DEFAULT 0;  -- the latest sign of life, seconds since 1970
    """,
    """
    ALTER TABLE tunings ADD COLUMN busy_cores REAL;  -- that others kept busy meanwhile, NULL where it is not known
    ALTER TABLE tunings ADD COLUMN images_per_s REAL;  -- of the first run that was computed so
    ALTER TABLE tunings ADD COLUMN due INTEGER NOT NULL DEFAULT 1;  -- whether the next run measures again
    ALTER TABLE tunings ADD COLUMN measured_at REAL NOT NULL DEFAULT 0;  -- seconds since 1970
    """,
)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the database at `path` to the newest layout, in one transaction: a second process that opens it waits.

    A database of an older layout is first copied to `<name>.layout-<number>` beside it.

    Raises:
        StoreError: a newer reslab wrote it.
    """
    if version_of(connection) == len(STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(connection)  # another connection may have migrated it
        if version > len(STEPS):
            raise StoreError(
                f"the database of runs has layout {version}, this reslab reads layouts up to {len(STEPS)}; "
                "update reslab, or use another --home"
            )
        if 0 < version < len(STEPS):
            _back_up(path, path.with_name(f"{path.name}.layout-{version}"))
        for step in STEPS[version:]:
            for statement in step.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
    except BaseException:
        if connection.in_transaction:  # on a full disk SQLite has rolled back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _back_up(path: Path, copy: Path) -> None:
    """Copy the database: within the transaction no other connection writes, and this one has not written yet.

    Through SQLite: opening and closing the file in any other way would drop this process's locks on it
    (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    part = copy.with_name(f".{copy.name}.{os.getpid()}.part")
    try:
        with closing(sqlite3.connect(path)) as reader, closing(sqlite3.connect(part)) as target:
            reader.backup(target)
        os.replace(part, copy)
    finally:
        part.unlink(missing_ok=True)


def version_of(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)
