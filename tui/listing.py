"""The list of runs as text: a row of cells for each, their order, and the words that narrow it down. Draws nothing.

The texts are made once, when the runs have been read, and in the thread that read them: sorting and filtering ten
thousand runs then formats nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from engine.analysis.tables import duration
from engine.records import RunSummary
from engine.text import percent, safe_text

if TYPE_CHECKING:
    from engine.paths import Folders

LEFT = (1, 2, 3, 12)
"""Columns of names; the others hold figures and end at the right."""
_name = lru_cache(1024)(safe_text)  # few names stand in many runs


def _metric(moment: str, name: str) -> Callable[[RunSummary], Any]:
    def value(record: RunSummary) -> float | None:
        metrics = getattr(record, moment)
        return None if metrics is None else float(getattr(metrics, name))

    return value


# Title, the value that it is sorted by, and its text.
_COLUMNS: tuple[tuple[str, Callable[[RunSummary], Any], Callable[[Any], str]], ...] = (
    ("run", lambda record: record.run, str),
    ("dataset", lambda record: record.dataset, lambda value: _name(value, 28)),
    ("model", lambda record: record.model, _name),
    ("status", lambda record: record.status, _name),
    ("accuracy", _metric("final", "accuracy"), percent),
    ("F1", _metric("final", "f1"), percent),
    ("epochs", lambda record: record.spec.get("epochs"), str),
    ("seed", lambda record: record.spec.get("seed"), str),
    ("img/s", lambda record: record.train_images_per_s, lambda value: f"{value:,.0f}" if value else "–"),
    ("time", lambda record: record.elapsed_s, duration),
    ("untrained", _metric("untrained", "accuracy"), percent),
    ("when", lambda record: record.created_at, lambda value: time.strftime("%m-%d %H:%M", time.localtime(value))),
    ("where", lambda record: record.workers.partition(",")[0] or "here", lambda value: _name(value, 40)),
)
TITLES = tuple(title for title, _, _ in _COLUMNS)


@dataclass(frozen=True, slots=True)
class Listed:
    """One run: its record, the harmless text of each column, and all of them in lower case for the filter."""

    record: RunSummary
    cells: tuple[str, ...]
    words: str

    @property
    def run(self) -> int:
        return self.record.run


@dataclass(frozen=True, slots=True, eq=False)  # ten thousand runs are not compared one by one
class Listing:
    """All runs, newest first, and the cells that the widest text of each column takes.

    `stamp` is what the record's file looked like when it was read: where it looks the same, nothing has changed.
    """

    runs: Sequence[Listed]
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


def list_runs(records: Sequence[RunSummary], stamp: tuple[int, int] | None = None) -> Listing:
    runs = []
    for record in records:
        cells = tuple(text_of(value(record)) for _, value, text_of in _COLUMNS)
        runs.append(Listed(record, cells, " ".join(cells).lower()))
    columns = zip(TITLES, *(listed.cells for listed in runs), strict=True)
    return Listing(runs, tuple(max(map(cell_len, set(column))) for column in columns), stamp)


def arrange(listing: Listing, sort_by: int, reverse: bool, words: str) -> list[Listed]:
    """The runs whose row contains every one of `words`, in the order of a column; those without a value come last."""
    wanted = words.lower().split()
    value = _COLUMNS[sort_by][1]
    known, unknown = list[tuple[Any, Listed]](), list[Listed]()
    for listed in listing.runs:
        if all(word in listed.words for word in wanted):
            found = value(listed.record)
            unknown.append(listed) if found is None else known.append((found, listed))
    known.sort(key=lambda pair: pair[0], reverse=reverse)
    return [listed for _, listed in known] + unknown
