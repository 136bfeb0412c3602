"""Who holds what: the datasets and models that this process keeps in memory, by run. Loads no torch.

Whatever outlives a run is held here and nowhere else, so that dropping it here really frees it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["dataset", "model"]


@dataclass(frozen=True, slots=True)
class Holding:
    """One thing in memory. `run` is the run that needs or last needed it; `live` says whether it still does."""

    kind: Kind
    label: str
    run: int
    num_bytes: int
    live: bool


@dataclass(slots=True)
class _Entry:
    holding: Holding
    value: Any


class Ledger:
    """Holds the values themselves beside their description. Any thread may ask."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = threading.Lock()

    def hold(self, key: Hashable, value: Any, holding: Holding) -> None:
        """Keep `value` under `key`, in place of what was there."""
        with self._lock:
            self._entries[key] = _Entry(holding, value)

    def get(self, key: Hashable) -> Any | None:
        with self._lock:
            entry = self._entries.get(key)
            return entry.value if entry else None

    @property
    def num_bytes(self) -> int:
        return sum(holding.num_bytes for holding in self.holdings())

    def holdings(self) -> tuple[Holding, ...]:
        """Everything held, the latest first."""
        with self._lock:
            return tuple(entry.holding for entry in reversed(self._entries.values()))

    def finish(self, run: int) -> None:
        """What `run` held is needed no longer, but stays until it is in the way."""
        with self._lock:
            for entry in self._entries.values():
                held = entry.holding
                if held.run == run and held.live:
                    entry.holding = Holding(held.kind, held.label, held.run, held.num_bytes, live=False)

    def drop_idle(self, keep: Hashable = None) -> tuple[Holding, ...]:
        """Let go of everything that no live run needs, except `keep`; returns what was let go."""
        with self._lock:
            idle = {key: entry for key, entry in self._entries.items() if not entry.holding.live and key != keep}
            for key in idle:
                del self._entries[key]
        return tuple(entry.holding for entry in idle.values())
