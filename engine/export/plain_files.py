"""Exports one run as plain files that can be read without reslab: CSV, JSON and TOML."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, TextIO

from engine.analysis.naming import NamedPrediction, named
from engine.analysis.remarks import remarks_on
from engine.errors import StoreError
from engine.events import plain
from engine.records import RunDetails
from engine.spec import RunSpec, unknown_settings
from engine.store.store import Store
from engine.text import escaped, safe_text

PREDICTION_COLUMNS = tuple(item.name for item in fields(NamedPrediction))


def export_run(store: Store, run: int, run_folder: Path, folder: Path) -> Path:
    """Write run.json, spec.toml, metrics.csv, steps.csv and, if there are any, predictions.csv into `folder`.

    `run_folder` has the run's own files.
    """
    details = store.details(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plain(details_as_json(details)), indent=2, ensure_ascii=False)
        (folder / "run.json").write_text(escaped(text) + "\n", encoding="utf-8")
        (folder / "spec.toml").write_text(_spec_toml(details.record.spec), encoding="utf-8")
        _write_table(folder / "metrics.csv", *_metrics_table(details))
        curve = details.curve
        steps = zip(range(1, len(curve.losses) + 1), curve.losses, curve.accuracies, strict=True)
        _write_table(folder / "steps.csv", ("step", "train_loss", "train_accuracy"), steps)
        if details.evaluation("final"):
            with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
                write_predictions(file, named(store.predictions(run), details.class_names, run_folder))
    except OSError as error:
        raise StoreError(
            f"cannot write to {folder} ({error.strerror or error}); choose a folder that is writable"
        ) from None
    return folder


def _spec_toml(spec: Mapping[str, Any]) -> str:
    return RunSpec.from_stored(spec).to_toml(unknown_settings(spec))


def details_as_json(details: RunDetails) -> dict[str, Any]:
    """A run as JSON types: its summary, resolved settings, epochs, evaluations, weights."""
    return {
        **plain(details.record),
        "started": plain(details.started),
        "epochs": plain(details.epochs),
        "evaluations": plain(details.evaluations),
        "weights": plain(details.weights),
        "memory": plain(details.memory),
        "intact": details.intact,
        "remarks": list(remarks_on(details)),
    }


def write_predictions(file: TextIO, predictions: Iterable[NamedPrediction]) -> None:
    """CSV with a header line; names are made safe, because such files are printed to terminals."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(PREDICTION_COLUMNS)
    for item in predictions:
        cells = ("" if value is None else value for value in astuple(item))
        writer.writerow([safe_text(cell) if isinstance(cell, str) else cell for cell in cells])


def _metrics_table(details: RunDetails) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    names = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "loss")
    rows = [
        (
            safe_text(item.split),
            safe_text(item.moment),
            item.epoch,
            item.step,
            *(getattr(item.metrics, name) for name in names),
        )
        for item in details.evaluations
    ]
    return ("split", "moment", "epoch", "step", *names), rows


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
