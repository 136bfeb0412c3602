"""What the app shows, as values that screens subscribe to. Knows no screen, no widget and no app.

Textual's own `Signal` does not fit: it swallows an exception that a subscriber raises, holds no value, and delivers
what has not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from textual.dom import DOMNode

from tui.text import counted

if TYPE_CHECKING:  # the first paint need not wait for them
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
    """Calls its subscribers at once, in the thread of the event loop, for as long as their nodes are mounted."""

    def __init__(self) -> None:
        self._subscribers: list[tuple[DOMNode, Callable[[T], object]]] = []

    def subscribe(self, node: DOMNode, callback: Callable[[T], object]) -> None:
        """Call `callback` at each `publish` until `node` is unmounted. Call this when `node` is mounted or later."""
        self._forget_unmounted()
        self._subscribers.append((node, callback))

    def publish(self, data: T) -> None:
        """Call every subscriber; what one of them raises reaches the caller."""
        self._forget_unmounted()
        for node, callback in list(self._subscribers):
            if _is_mounted(node):  # an earlier subscriber may have removed it
                callback(data)

    def _forget_unmounted(self) -> None:
        self._subscribers = [(node, callback) for node, callback in self._subscribers if _is_mounted(node)]


def _is_mounted(node: DOMNode) -> bool:
    return node.is_running and node.is_attached


class Observable(Signal[T]):
    """A value that publishes each change. Setting an equal value does nothing."""

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
    """Computed values by key, until they may be out of date. Publishes each new one; `clear` publishes nothing."""

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
    """How the app was opened. `first_spec` starts at once; `attached` is a run of another process to follow."""

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
    """The queue as it was last read: the entries that wait, the numbers of those on hold, how many runs are done."""

    waiting: tuple[QueueEntry, ...] = ()
    on_hold: frozenset[int] = frozenset()
    done: int = 0
    begun: tuple[int, ...] = ()
    """Runs that the cluster has started."""

    @property
    def held(self) -> list[QueueEntry]:
        """The entries that wait until somebody resumes them."""
        return [item for item in self.waiting if item.number in self.on_hold]

    @property
    def words(self) -> str:
        """How many wait and how many of them are on hold; "" where none does."""
        held = len(self.held)
        parts = ((len(self.waiting) - held, "waiting"), (held, "on hold"))
        return ", ".join(f"{number} {what}" for number, what in parts if number)

    @property
    def hint(self) -> str:
        """What is on hold, and how to resume it; "" where nothing is."""
        return f"{counted(len(self.held), 'run')} on hold: u shows the queue, g resumes it" if self.held else ""


class AppState:
    """The values and signals of one app. The app and its services set them; screens read and follow them."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.settings = settings
        self.ledger = ledger
        self.live: Observable[LiveRun | None] = Observable(None)
        self.run_changed: Signal[LiveRun] = Signal()  # `LiveRun` grows in place: the value stays the same object
        self.status = Observable("")
        self.gauges: Observable[GaugesRead | None] = Observable(None)
        self.freed: Signal[Freed] = Signal()
        self.queue = Observable(QueueState())
        self.listing: Observable[Listing | None] = Observable(None)
        self.forecasts: Cache[RunSpec, str] = Cache()
        self.surveys: Cache[tuple[object, ...], Survey | str] = Cache()  # by what decides which images are loaded
        self.compared: Observable[tuple[int, ...]] = Observable(())
        self.torch_loaded = Observable(False)

    @property
    def folders(self) -> Folders:
        return self.settings.folders

    @property
    def lab(self) -> Lab:
        """Everything that screens read, and have done; its calls may take long, so they belong in a thread."""
        from engine.lab import Lab  # SQLite: the first paint need not wait for it

        return Lab(self.folders, self.ledger)

    @property
    def is_running(self) -> bool:
        """Whether a run is live: started, and not over."""
        return self.live.value is not None and not self.live.value.over

    @property
    def records(self) -> Sequence[RunSummary]:
        """Every run of the last listing, newest first."""
        return [listed.record for listed in self.listing.value.runs] if self.listing.value else ()

    def update_status(self) -> None:
        """Bring `status` up to the live run and the queue. `LiveRun` changes in place, so its owner calls this."""
        live, waiting = self.live.value, self.queue.value.words
        text = live.state if live else ""
        if live and live.doing == "training" and not live.over:
            text = f"epoch {live.epoch}/{live.spec.epochs}{' paused' if live.paused else ''}"
        self.status.value = " · ".join(part for part in (text, waiting) if part)
