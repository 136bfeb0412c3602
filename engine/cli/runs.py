"""Commands that print what is stored: models, runs, show, compare, predictions, export, delete. Loads no torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.analysis.remarks import remarks_on
from engine.analysis.tables import (
    class_rows,
    comparison_rows,
    differing_rows,
    duration,
    facts,
    group_rows,
    result_table,
)
from engine.catalog.model_info import ModelInfo
from engine.catalog.models import MODELS, MORE_MODELS, short_model
from engine.catalog.own_models import provided_models, timm_models
from engine.catalog.timm_table import HOW_TO_INSTALL, is_timm_installed, require_timm, table_version, timm_rows
from engine.cli.output import print_json
from engine.cli.parser import columns
from engine.errors import SpecError
from engine.events import plain
from engine.export.plain_files import details_as_json, write_predictions
from engine.lab import Lab, Pairs
from engine.paths import Folders
from engine.records import RunDetails, RunSummary
from engine.text import percent, safe_text


def list_models(family: str | None, every: bool, as_json: bool) -> int:
    """reslab's own architectures and those of installed packages; with `every` torchvision's too; or timm's."""
    if family is not None:
        return _list_timm(family, as_json)
    shown = [*MODELS, *(MORE_MODELS if every else ()), *provided_models()]
    if as_json:
        print_json(shown)
        return 0
    rows = [("MODEL", "DEPTH", "PARAMETERS", "LEAST SIZE", "")]
    rows += [
        (info.name, str(info.depth or "–"), _count(info), "–" if info.is_whole else _least_size(info), info.title)
        for info in shown
    ]
    print(columns(rows, right=(1, 2, 3)))
    print("Parameters for ImageNet (3 channels, 1,000 classes); a run adapts both to its dataset.")
    print("Least size: the shorter image side in pixels; n× means a multiple of n.")
    more = [] if every else [f"{len(MORE_MODELS)} more with --all"]
    of_timm = "reslab models timm" if is_timm_installed() else f"timm, once it is installed: {HOW_TO_INSTALL}"
    print(f"{'; '.join([*more, f'{len(timm_rows()):,} of {of_timm}'])}.")
    print("Your own: ./net.py:NAME (code) or ./net.toml (layers).")
    return 0


def _list_timm(family: str, as_json: bool) -> int:
    if family != "timm":
        raise SpecError(f"models: {family!r} is not valid; expected timm, or nothing for reslab's own")
    require_timm()
    if as_json:
        print_json(timm_models())
        return 0
    rows = [("MODEL", "PARAMETERS", "SIZE", "WEIGHTS")]
    for info, row in zip(timm_models(), timm_rows().values(), strict=True):
        size = f"{row.size} fixed" if row.is_fixed else str(row.size or "–")
        rows.append((info.name, _count(info), size, "yes" if row.is_pretrained else "no"))
    print(columns(rows, right=(1, 2)))
    print(f"As of timm {table_version()}: parameters for 1,000 classes; the side in pixels that it was made for;")
    print("fixed: built for the size of your images where it can be. Weights: --weights imagenet takes timm's own.")
    return 0


def _count(info: ModelInfo) -> str:
    return "–" if info.num_parameters is None else f"{info.num_parameters:,}"


def _least_size(info: ModelInfo) -> str:
    return f"{info.multiple}×" if info.multiple > 1 else str(info.min_size)


def list_runs(lab: Lab, as_json: bool) -> int:
    runs = lab.runs()
    if as_json:
        print_json(runs)
        return 0
    if not runs:
        print("no runs yet; reslab train digits resnet18 starts one")
        return 0
    header = ("RUN", "WHEN", "DATASET", "MODEL", "STATUS", "UNTRAINED", "FINAL", "IMAGES/S", "TIME", "WHERE")
    num_columns = len(header) if any(run.workers for run in runs) else len(header) - 1
    print(columns([row[:num_columns] for row in (header, *map(_run_row, runs))], right=(0, 5, 6, 7, 8)))
    return 0


def _run_row(run: RunSummary) -> tuple[str, ...]:
    return (
        str(run.run),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created_at)),
        safe_text(run.dataset, 40),
        safe_text(short_model(run.model), 40),
        safe_text(run.status),
        percent(run.untrained.accuracy if run.untrained else None),
        percent(run.final.accuracy if run.final else None),
        f"{run.train_images_per_s:,.0f}" if run.train_images_per_s else "–",
        duration(run.elapsed_s),
        safe_text(run.workers or "here", 80),
    )


def show_run(lab: Lab, run: int, as_json: bool) -> int:
    """Print one run; exit code 1 if its rows were changed after its end."""
    details = lab.run(run)
    print_json(details_as_json(details)) if as_json else _print_details(details, lab.folders)
    if details.intact is False:
        print(f"reslab: run {run} was changed after it ended; do not trust its figures", file=sys.stderr)
        return 1
    return 0


def _print_details(details: RunDetails, folders: Folders) -> None:
    record = details.record
    what = f"{short_model(record.model)} on {record.dataset}, {record.status}"
    print(f"run {record.run}: {safe_text(what)}")
    if record.error:
        print(safe_text(record.error))
    print(columns([(name, safe_text(value)) for name, value in facts(details, folders.run_folder(record.run))]))
    final = details.evaluation("final")
    print("\n" + columns(result_table(details), right=(1, 2, 3)))
    for remark in remarks_on(details):
        print(f"note: {safe_text(remark)}")
    if final:
        header = ("CLASS", "PRECISION", "RECALL", "F1", "IMAGES")
        print("\n" + columns([header, *class_rows(details.class_names, final.per_class)], right=(1, 2, 3, 4)))


def compare_runs(lab: Lab, runs: Sequence[int], as_json: bool, pairs: Pairs | None = None) -> int:
    """Print runs side by side, the settings that differ, and the verdict of every pair (or of these, by position)."""
    compared = lab.compare(runs, pairs)
    found, groups, between = compared.comparison, compared.groups, compared.group_verdicts
    records = [details.record for details in compared.runs]
    parts = [details.memory.micro_batch for details in compared.runs]
    if as_json:
        first: dict[str, Any] = plain(found.verdicts[0]) if len(found.verdicts) == 1 else {"verdict": found.no_verdict}
        print_json({**first, **plain(found), "groups": plain(groups), "group_verdicts": plain(between),
                    "without": list(compared.without)})  # fmt: skip
        return 0
    rows = [tuple(map(safe_text, row)) for row in comparison_rows(records, found.no_verdict is None, parts)]
    print(columns(rows, right=range(1, len(rows[0]))))
    if found.differing:
        rows = [tuple(safe_text(cell, 40) for cell in row) for row in differing_rows(found.differing)]
        print("\n" + columns(rows))
    if groups:
        print("\n" + columns([tuple(map(safe_text, row)) for row in group_rows(groups)], right=(3, 4)))
    print()
    for side in found.sides:
        low, high = side.wilson_95
        print(
            safe_text(
                f"{side.name}: {side.num_right:,} of {side.num_images:,} right, "
                f"95 % interval {percent(low, 2)} to {percent(high, 2)} (Wilson)"
            )
        )
    verdicts = [item.verdict for item in found.verdicts] + [item.verdict for item in between]
    for text in (found.no_verdict, *verdicts, *compared.without):
        if text:
            print(safe_text(text))
    return 0


def print_predictions(lab: Lab, run: int, as_json: bool) -> int:
    """One line per test image: its file, its true and its predicted class, by name and number."""
    found = lab.predictions(run)
    if as_json:
        print_json(list(found))
    else:
        write_predictions(sys.stdout, found)
    return 0


def export_run(lab: Lab, run: int, folder: Path | None, as_json: bool) -> int:
    """Write a run's plain files, and print where they are."""
    written = lab.export(run, folder)
    files = sorted(path.name for path in written.iterdir() if path.is_file())
    if as_json:
        print_json({"run": run, "folder": str(written), "files": files})
    else:
        print(safe_text(str(written)))
        print(f"run {run}: {', '.join(files)}", file=sys.stderr)
    return 0


def delete_run(lab: Lab, run: int) -> int:
    lab.delete(run)
    print(f"run {run} deleted", file=sys.stderr)
    return 0
