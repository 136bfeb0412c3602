"""What the screens read from the record, each call with a connection of its own, so that any thread may make it."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.paths import Places
from engine.results.export import export_run
from engine.results.records import RunDetails, RunRecord
from engine.results.store import Store


def read_runs(places: Places) -> list[RunRecord]:
    """Every run, newest first."""
    with Store(places.database) as store:
        store.settle_lost_runs()
        return store.runs()


def read_details(places: Places, run: int) -> RunDetails:
    with Store(places.database) as store:
        return store.details(run)


def delete_run(places: Places, run: int) -> None:
    with Store(places.database) as store:
        store.delete(run)
    shutil.rmtree(places.run_folder(run), ignore_errors=True)


def export(places: Places, run: int) -> Path:
    """Write the run's plain files into its folder; returns where they are."""
    with Store(places.database) as store:
        return export_run(store, run, places.run_folder(run) / "export")
