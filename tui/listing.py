"""The list of runs as text: a row of cells per run, sorting and filtering. Draws nothing.

The cells are formatted once, in the thread that reads the runs, so that sorting and filtering 10,000 runs formats
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from engine.analysis.tables import duration
from engine.catalog.models import short_model
from engine.records import RunSummary
from engine.text import percent, safe_text

if TYPE_CHECKING:
    from engine.paths import Folders

LEFT = (1, 2, 3, 12)
"""Columns of text, aligned left; the others hold figures, aligned right."""
_name = lru_cache(1024)(safe_text)  # many runs share few names


def _metric(moment: str, name: str) -> Callable[[RunSummary], Any]:
    def value(summary: RunSummary) -> float | None:
        metrics = getattr(summary, moment)
        return None if metrics is None else float(getattr(metrics, name))

    return value


# Title, sort value, and how to format it.
_COLUMNS: tuple[tuple[str, Callable[[RunSummary], Any], Callable[[Any], str]], ...] = (
    ("run", lambda summary: summary.run, str),
    ("dataset", lambda summary: summary.dataset, lambda value: _name(value, 28)),
    ("model", lambda summary: short_model(summary.model), _name),
    ("status", lambda summary: summary.status, _name),
    ("accuracy", _metric("final", "accuracy"), percent),
    ("F1", _metric("final", "f1"), percent),
    ("epochs", lambda summary: summary.spec.get("epochs"), str),
    ("seed", lambda summary: summary.spec.get("seed"), str),
    ("img/s", lambda summary: summary.train_images_per_s, lambda value: f"{value:,.0f}" if value else "–"),
    ("time", lambda summary: summary.elapsed_s, duration),
    ("untrained", _metric("untrained", "accuracy"), percent),
    ("when", lambda summary: summary.created_at, lambda value: time.strftime("%m-%d %H:%M", time.localtime(value))),
    ("where", lambda summary: summary.workers.partition(",")[0] or "here", lambda value: _name(value, 40)),
)
TITLES = tuple(title for title, _, _ in _COLUMNS)


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One run: its summary, the safe text of each column, and all of it in lower case for the filter."""

    summary: RunSummary
    cells: tuple[str, ...]
    search_text: str

    @property
    def run(self) -> int:
        return self.summary.run


@dataclass(frozen=True, slots=True, eq=False)  # do not compare 10,000 runs one by one
class Listing:
    """All runs, newest first, and the width of each column in cells.

    `stamp` is the database file's time and size when it was read: if they are the same, nothing has changed.
    """

    runs: Sequence[ListedRun]
    widths: tuple[int, ...]
    stamp: tuple[int, int] | None = None


EMPTY = Listing((), tuple(map(len, TITLES)))


def read_listing(folders: Folders, known: Listing = EMPTY) -> Listing:
    """Every run, newest first. Returns `known` if the database has not changed since (10,000 runs: 0.5 s).

    Opens its own connection, so any thread may call it.
    """
    from engine.store.store import Store  # SQLite: load it in the thread that reads

    with Store(folders.database) as store:
        store.settle_lost_runs()
        status = folders.database.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        return known if known.stamp == stamp else list_runs(store.runs(), stamp)


def list_runs(summaries: Sequence[RunSummary], stamp: tuple[int, int] | None = None) -> Listing:
    runs = []
    for summary in summaries:
        cells = tuple(format_value(value(summary)) for _, value, format_value in _COLUMNS)
        runs.append(ListedRun(summary, cells, " ".join(cells).lower()))
    columns = zip(TITLES, *(listed.cells for listed in runs), strict=True)
    return Listing(runs, tuple(max(map(cell_len, set(column))) for column in columns), stamp)


def arrange(listing: Listing, sort_by: int, reverse: bool, filter_text: str) -> list[ListedRun]:
    """The runs whose row contains every word of `filter_text`, sorted by a column; runs without a value come last."""
    words, value = filter_text.lower().split(), _COLUMNS[sort_by][1]
    runs = listing.runs
    if words:
        runs = [listed for listed in runs if all(word in listed.search_text for word in words)]
    # Sort positions, not pairs: 10,000 new tuples would start a garbage collection, which takes longer than the sort.
    values = [value(listed.summary) for listed in runs]
    known = [position for position, found in enumerate(values) if found is not None]
    known.sort(key=values.__getitem__, reverse=reverse)
    return [runs[position] for position in known] + [
        listed for listed, found in zip(runs, values, strict=True) if found is None
    ]
