"""What the session's threads report to the app: facts, as typed messages. `post_message` is the one thread-safe way in.

Screens see none of them: the app puts into its state what they show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:  # the first paint need not wait for them
    from engine.memory.freeing import Freed
    from engine.memory.gauges import MemoryReading
    from engine.memory.ledger import Holding
    from engine.memory.node_gauges import NodeReading


class EventsArrived(Message):
    """The live run yielded events: the session keeps them until the app takes them all, in their order."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, EventsArrived)


class RunRefused(Message):
    """The run that was asked for did not begin; `error` is a sentence."""

    def __init__(self, error: str) -> None:
        super().__init__()
        self.error = error


class RunCarried(Message):
    """A process of its own has begun to carry run `run`, from the queue."""

    def __init__(self, run: int) -> None:
        super().__init__()
        self.run = run


class QueueCarried(Message):
    """The process that carried the queue's runs has ended; `error` is a sentence where it was not as it should."""

    def __init__(self, error: str | None) -> None:
        super().__init__()
        self.error = error


class TerminalLost(Message):
    """The terminal that the app is drawn on is gone."""


class TorchLoaded(Message):
    """torch is there; or it is not, and `error` says why."""

    def __init__(self, error: str | None) -> None:
        super().__init__()
        self.error = error


class GaugesRead(Message):
    """The gauges as of now, `nodes` those of a cluster's other machines. A newer reading stands for an older one that
    nobody has looked at.
    """

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
    """The free-memory button has done its work."""

    def __init__(self, freed: Freed) -> None:
        super().__init__()
        self.freed = freed
