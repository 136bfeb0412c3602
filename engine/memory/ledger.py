"""Who holds what: the datasets and models that this process keeps in memory, by run. Loads no torch.

Whatever outlives a run is held here and nowhere else, so dropping it here really frees it.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["dataset", "model"]
HoldingPart = Literal["parameters", "gradients", "optimizer", "dataset", "caches"]


@dataclass(frozen=True, slots=True)
class Holding:
    """One value in memory; `parts` are its bytes by kind.

    `number` identifies it as long as it is held. `run` is the run that needs or last needed it; `live`: it still does.
    """

    kind: Kind
    label: str
    run: int
    parts: tuple[tuple[HoldingPart, int], ...]
    live: bool
    number: int = 0

    @property
    def num_bytes(self) -> int:
        return sum(num_bytes for _, num_bytes in self.parts)


@dataclass(slots=True)
class _Entry:
    holding: Holding
    value: Any


class Ledger:
    """Holds the values and their descriptions, least recently used first. Thread-safe.

    `bound_bytes` is what all of it may take on the training device; None: as RESLAB_MEMORY_GIB says.
    """

    def __init__(self, bound_bytes: int | None = None) -> None:
        self.bound_bytes = bound_bytes
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = threading.Lock()
        self._num_held = 0

    def hold(self, key: Hashable, value: Any, holding: Holding) -> None:
        """Keep `value` under `key`, replacing any earlier value."""
        with self._lock:
            self._num_held += 1
            self._entries.pop(key, None)
            self._entries[key] = _Entry(replace(holding, number=self._num_held), value)

    def get(self, key: Hashable) -> Any | None:
        """The value, now the most recently used; None if it is not held."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                return None
            self._entries[key] = entry
            return entry.value

    def idle(self, key: Hashable) -> Any | None:
        """As `get`, but None if a live run needs it."""
        with self._lock:
            entry = self._entries.get(key)
        return None if entry is None or entry.holding.live else self.get(key)

    @property
    def num_bytes(self) -> int:
        return sum(holding.num_bytes for holding in self.holdings())

    @property
    def idle_bytes(self) -> int:
        return sum(holding.num_bytes for holding in self.holdings() if not holding.live)

    def holdings(self) -> tuple[Holding, ...]:
        """Everything held, most recently used first."""
        with self._lock:
            return tuple(entry.holding for entry in reversed(self._entries.values()))

    def bytes_of_others(self, run: int) -> int:
        """Bytes held for other runs."""
        return sum(holding.num_bytes for holding in self.holdings() if holding.run != run)

    def finish(self, run: int) -> None:
        """Mark what `run` held as idle: kept until the memory is needed. Of its model only the parameters stay."""
        with self._lock:
            for entry in self._entries.values():
                held = entry.holding
                if held.run == run and held.live:
                    parts = tuple(part for part in held.parts if part[0] in ("parameters", "dataset"))
                    entry.holding = replace(held, parts=parts, live=False)

    def drop_idle(self) -> tuple[Holding, ...]:
        """Drop everything that no live run needs; returns what was dropped."""
        return tuple(holding for holding, _ in self.take_idle())

    def take_idle(self, numbers: frozenset[int] | None = None) -> list[tuple[Holding, Any]]:
        """As `drop_idle`, or only these `numbers`, but returns the values too: the caller's to keep or drop."""
        with self._lock:
            idle = [
                key
                for key, entry in self._entries.items()
                if not entry.holding.live and (numbers is None or entry.holding.number in numbers)
            ]
            taken = [self._entries.pop(key) for key in idle]
        return [(entry.holding, entry.value) for entry in taken]

    def evict_until(self, fits: Callable[[], bool]) -> tuple[Holding, ...]:
        """Drop idle values, least recently used first, until `fits` returns true or none is left."""
        dropped: list[Holding] = []
        while not fits():
            with self._lock:
                oldest = next((key for key, entry in self._entries.items() if not entry.holding.live), None)
                if oldest is None:
                    break
                dropped.append(self._entries.pop(oldest).holding)
            gc.collect()  # a network may refer to itself and live until then
        return tuple(dropped)
