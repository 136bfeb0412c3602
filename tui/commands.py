"""The app's interface for its own parts, as protocols, so that no part imports the app."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from engine.launch.scheduler import Turn
    from engine.records import RunSummary
    from engine.spec import RunSpec
    from engine.store.store import Store
    from tui.listing import Listing

T = TypeVar("T")
Severity = Literal["information", "warning", "error"]


class QueueCommands(Protocol):
    """The queue, as screens see it."""

    def add(self, specs: Sequence[RunSpec], show: bool = False) -> None:
        """Append specs. If no run is live, start the first one; `show` then switches to Train."""

    def start(self) -> None:
        """Run all waiting entries, including those on hold."""

    def hold(self) -> None:
        """Put all waiting entries on hold."""

    def change(self, work: Callable[[Store], None]) -> None:
        """Move or remove entries."""


class Commands(Protocol):
    """The app, as screens see it."""

    @property
    def queue(self) -> QueueCommands: ...

    def report(self, text: str, severity: Severity = "information") -> None:
        """Show a notification; `text` may come from outside."""

    async def ask(self, question: str) -> bool:
        """Ask a yes-or-no question in a dialog. Call this in a worker; `question` may come from outside."""

    def start_run(self, spec: RunSpec, show: bool = True, resumed: int | None = None) -> bool:
        """Start a run, or resume run `resumed`; False if another run is live. `show` switches to Train."""

    def resume_run(self, summary: RunSummary) -> None:
        """Resume a run from its last checkpoint, or report why it cannot be resumed."""

    def stop_run(self, reason: str | None = None) -> None:
        """Stop the live run after its current step. Give `reason` if no user asked for it."""

    def toggle_pause(self) -> None:
        """Pause the live run, or resume it."""

    def take_events(self) -> None:
        """Apply all events that the run's thread has yielded to the live run."""

    def watch_run(self, run: int) -> None:
        """Follow another process's run on Train."""

    def open_run(self, run: int) -> None:
        """Open a run's tables and curves on top of Results."""

    def compare(self, runs: Sequence[int]) -> None:
        """Show these runs on Compare, or report how to choose some."""

    async def read_listing(self) -> Listing:
        """Read the runs again. Raises StoreError if the store cannot be read."""

    def free_memory(self, numbers: frozenset[int] | None = None) -> None:
        """Free all memory that no live run needs, or only these holdings."""

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread that does not delay the app's exit, and return its result."""


class Host(Commands, Protocol):
    """The app, as the queue, the watcher and the shutdown see it; includes parts of Textual's `App`."""

    @property
    def current_mode(self) -> str: ...

    def switch_mode(self, mode: str) -> object: ...

    def run_worker(self, work: Coroutine[Any, Any, None], *, group: str = ..., exclusive: bool = ...) -> object: ...

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call `callback` in the event loop's thread. Safe from any thread; does nothing once the loop is closed."""

    def exit(self, *, return_code: int = ...) -> None: ...

    def start_turn(self, turn: Turn, show: bool) -> None:
        """Start the queue's next run; `show` switches to Train."""

    def queue_is_empty(self) -> None:
        """The queue is empty."""
