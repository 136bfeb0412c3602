"""`reslab report`: train one of the report's experiments and print its figures beside the published ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from engine.analysis.tables import METRIC_NAMES
from engine.catalog.models import short_model
from engine.cli.output import print_json
from engine.cli.parser import columns
from engine.cli.runs import compare_runs
from engine.cli.training import Watch, train_in_turn
from engine.events import Event, RunStarted, plain
from engine.lab import Lab
from engine.records import RunSummary
from engine.reports import Preset
from engine.text import percent, safe_text


def report_command(preset: Preset, lab: Lab, as_json: bool) -> int:
    """Train every run of `preset`, then print the tables; stops at the first run that does not complete."""
    runs: list[int] = []

    def note(event: Event) -> None:
        if isinstance(event, RunStarted):
            runs.append(event.run)

    watch = Watch(as_json=as_json, is_quiet=True, needs_all=True, title=preset.name, seen=note)
    code = train_in_turn(preset.specs, lab, watch)
    if code:
        if any(spec.weights == "imagenet" for spec in preset.specs) and not as_json:
            print("reslab: without the ImageNet weights, use --weights random or --weights FILE", file=sys.stderr)
        return code
    records = [lab.run(run).record for run in runs]
    if as_json:
        print_json({"report": preset.name, "runs": runs, "published": plain(preset.published), "caveat": preset.caveat})
        return 0
    for record, rows in zip(records, report_tables(preset, records), strict=True):
        print(f"\n{short_model(record.model)} on {safe_text(record.dataset)}, run {record.run}")
        print(columns(rows, right=(1, 2, 3, 4)))
    sources = {found.source for found in preset.published if found}
    print(f"\nPublished: {'; '.join(sorted(sources))}")
    if preset.caveat:
        print(f"\n{safe_text(preset.caveat)}")
    if len(runs) > 1:
        print()
        return compare_runs(lab, runs, as_json=False, pairs=preset.pairs)
    return 0


def report_tables(preset: Preset, records: Sequence[RunSummary]) -> list[list[tuple[str, ...]]]:
    """One table per run: each metric, untrained and trained, beside the published figures."""
    tables = []
    for record, found in zip(records, preset.published, strict=True):
        head = ["", "UNTRAINED", "TRAINED", *(("PUBLISHED: UNTRAINED", "TRAINED") if found else ())]
        rows = [tuple(head)]
        for name, title in METRIC_NAMES:
            own = [percent(_value(record.untrained, name)), percent(_value(record.final, name))]
            if found:
                own += [percent(found.untrained if name == "accuracy" else None), percent(getattr(found, name))]
            rows.append((title, *own))
        tables.append(rows)
    return tables


def _value(metrics: Any, name: str) -> float | None:
    return None if metrics is None else float(getattr(metrics, name))
