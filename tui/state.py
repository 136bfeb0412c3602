"""What the app shows, as values that screens subscribe to. Imports no screen, widget or app.

Textual's own `Signal` does not fit: it swallows subscribers' exceptions, holds no value and delivers unchanged values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from textual.dom import DOMNode

from tui.text import counted

if TYPE_CHECKING:  # keep them out of the first paint
    from engine.data.survey import Survey
    from engine.lab import Lab
    from engine.launch.ray import Cluster
    from engine.memory.freeing import Freed
    from engine.memory.ledger import Ledger
    from engine.paths import Folders
    from engine.records import QueueEntry, RunSummary
    from engine.spec import RunSpec
    from tui.listing import Listing
    from tui.live import LiveRun
    from tui.messages import GaugesRead

K = TypeVar("K")
T = TypeVar("T")


class Signal(Generic[T]):
    """Calls its subscribers immediately, in the event loop's thread, while their nodes are mounted."""

    def __init__(self) -> None:
        self._subscribers: list[tuple[DOMNode, Callable[[T], object]]] = []

    def subscribe(self, node: DOMNode, callback: Callable[[T], object]) -> None:
        """Call `callback` at each `publish` until `node` is unmounted. Subscribe in `on_mount` or later."""
        self._forget_unmounted()
        self._subscribers.append((node, callback))

    def publish(self, data: T) -> None:
        """Call every subscriber; their exceptions reach the caller."""
        self._forget_unmounted()
        for node, callback in list(self._subscribers):
            if _is_mounted(node):  # an earlier subscriber may have removed it
                callback(data)

    def _forget_unmounted(self) -> None:
        self._subscribers = [(node, callback) for node, callback in self._subscribers if _is_mounted(node)]


def _is_mounted(node: DOMNode) -> bool:
    return node.is_running and node.is_attached


class Observable(Signal[T]):
    """A value that publishes its changes. Setting an equal value does nothing."""

    def __init__(self, value: T) -> None:
        super().__init__()
        self._value = value

    @property
    def value(self) -> T:
        return self._value

    @value.setter
    def value(self, value: T) -> None:
        if value is not self._value and value != self._value:
            self._value = value
            self.publish(value)


class Cache(Signal[T], Generic[K, T]):
    """Computed values by key, cleared when they may be outdated. Publishes each new value, but not `clear`."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[K, T] = {}

    def get(self, key: K) -> T | None:
        return self._values.get(key)

    def add(self, key: K, value: T) -> None:
        self._values[key] = value
        self.publish(value)

    def clear(self) -> None:
        self._values.clear()


@dataclass(frozen=True, slots=True)
class Settings:
    """How the app was opened. `first_spec` starts at once; `attached` is another process's run to follow."""

    folders: Folders
    first_spec: RunSpec | None = None
    attached: int | None = None
    exit_when_done: bool = False
    cluster: Cluster | None = None

    @property
    def side_by_side(self) -> bool:
        """Whether the queue's runs train at the same time, on a cluster."""
        return self.cluster is not None and self.cluster.side_by_side


@dataclass(frozen=True, slots=True)
class QueueState:
    """The queue as last read: waiting entries, the numbers of those on hold, and how many runs are done."""

    waiting: tuple[QueueEntry, ...] = ()
    on_hold: frozenset[int] = frozenset()
    done: int = 0
    started: tuple[int, ...] = ()
    """Runs that the cluster has started."""

    @property
    def held(self) -> list[QueueEntry]:
        """The entries on hold."""
        return [item for item in self.waiting if item.number in self.on_hold]

    @property
    def summary(self) -> str:
        """How many entries wait and how many are on hold; "" if none."""
        held = len(self.held)
        parts = ((len(self.waiting) - held, "waiting"), (held, "on hold"))
        return ", ".join(f"{number} {what}" for number, what in parts if number)

    @property
    def hint(self) -> str:
        """How many runs are on hold, and how to resume them; "" if none."""
        return f"{counted(len(self.held), 'run')} on hold · u: queue, then g: resume" if self.held else ""


class AppState:
    """The app's values and signals. The app and its services set them; screens read and follow them."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.settings = settings
        self.ledger = ledger
        self.live: Observable[LiveRun | None] = Observable(None)
        self.run_changed: Signal[LiveRun] = Signal()  # `LiveRun` changes in place, so `live` publishes nothing
        self.status = Observable("")
        self.gauges: Observable[GaugesRead | None] = Observable(None)
        self.freed: Signal[Freed] = Signal()
        self.queue = Observable(QueueState())
        self.listing: Observable[Listing | None] = Observable(None)
        self.forecasts: Cache[RunSpec, str] = Cache()
        self.surveys: Cache[tuple[object, ...], Survey | str] = Cache()  # by the settings that select images
        self.compared: Observable[tuple[int, ...]] = Observable(())
        self.torch_loaded = Observable(False)

    @property
    def folders(self) -> Folders:
        return self.settings.folders

    @property
    def lab(self) -> Lab:
        """Everything that screens read and change. Its calls may be slow, so make them in a thread."""
        from engine.lab import Lab  # SQLite: keep it out of the first paint

        return Lab(self.folders, self.ledger)

    @property
    def is_running(self) -> bool:
        """Whether a run is live: started and not over."""
        return self.live.value is not None and not self.live.value.over

    @property
    def summaries(self) -> Sequence[RunSummary]:
        """All runs of the last listing, newest first."""
        return [listed.summary for listed in self.listing.value.runs] if self.listing.value else ()

    def update_status(self) -> None:
        """Recompute `status` from the live run and the queue. `LiveRun` changes in place, so its owner calls this."""
        live, waiting = self.live.value, self.queue.value.summary
        text = live.state if live else ""
        if live and live.activity == "training" and not live.over:
            text = f"epoch {live.epoch}/{live.spec.epochs}{' paused' if live.paused else ''}"
        self.status.value = " · ".join(part for part in (text, waiting) if part)
