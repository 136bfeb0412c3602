"""Messages from the session's threads to the app. `post_message` is the only thread-safe way in.

Screens do not receive them: the app updates its state, which screens follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:  # keep them out of the first paint
    from engine.memory.freeing import Freed
    from engine.memory.gauges import MemoryReading
    from engine.memory.ledger import Holding
    from engine.memory.node_gauges import NodeReading


class EventsArrived(Message):
    """The live run yielded events. The session keeps them, in order, until the app takes them."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, EventsArrived)


class RunRefused(Message):
    """The requested run did not start; `error` is a sentence."""

    def __init__(self, error: str) -> None:
        super().__init__()
        self.error = error


class QueueRunStarted(Message):
    """A separate process has started run `run` from the queue."""

    def __init__(self, run: int) -> None:
        super().__init__()
        self.run = run


class QueueProcessEnded(Message):
    """The process that runs the queue has ended; `error` is a sentence if it failed."""

    def __init__(self, error: str | None) -> None:
        super().__init__()
        self.error = error


class TerminalLost(Message):
    """The app's terminal is gone."""


class TorchLoaded(Message):
    """torch is imported, or `error` says why it cannot be."""

    def __init__(self, error: str | None) -> None:
        super().__init__()
        self.error = error


class GaugesRead(Message):
    """New gauge readings; `nodes` are those of a cluster's other machines. Replaces an unhandled older reading."""

    def __init__(
        self, reading: MemoryReading, holdings: tuple[Holding, ...], nodes: tuple[NodeReading, ...] = ()
    ) -> None:
        super().__init__()
        self.reading = reading
        self.holdings = holdings
        self.nodes = nodes

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, GaugesRead)


class MemoryFreed(Message):
    """Memory was freed."""

    def __init__(self, freed: Freed) -> None:
        super().__init__()
        self.freed = freed
