"""What the parts of the app may ask of it, as protocols, so that none of them imports it."""

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
    """What a screen may ask of the queue."""

    def add(self, specs: Sequence[RunSpec], show: bool = False) -> None:
        """Put specs at the end; with nothing live the first of them starts, and `show` goes to its live screen."""

    def start(self) -> None:
        """Run everything that waits, what is on hold too."""

    def hold(self) -> None:
        """Start none of the entries that wait now."""

    def change(self, work: Callable[[Store], None]) -> None:
        """Move or remove entries."""


class Commands(Protocol):
    """What a screen may ask of the app."""

    @property
    def queue(self) -> QueueCommands: ...

    def report(self, text: str, severity: Severity = "information") -> None:
        """Show a passing note; `text` may come from anywhere."""

    async def ask(self, question: str) -> bool:
        """The answer to a yes-or-no question over the screen. Needs a worker; `question` may come from anywhere."""

    def start_run(self, spec: RunSpec, show: bool = True, resumed: int | None = None) -> bool:
        """Start a run, or resume run `resumed`; False where another one is live. `show` goes to its live screen."""

    def resume_run(self, record: RunSummary) -> None:
        """Resume a run from its last checkpoint, or report why it cannot be resumed."""

    def stop_run(self, reason: str | None = None) -> None:
        """Stop the live run after its step; `reason` where no person asked."""

    def toggle_pause(self) -> None:
        """Pause the live run, or resume it."""

    def take_events(self) -> None:
        """Bring the live run up to what its thread has yielded."""

    def watch_run(self, run: int) -> None:
        """Follow a run of another process on Train."""

    def open_run(self, run: int) -> None:
        """Show a run's tables and curves over Results."""

    def compare(self, runs: Sequence[int]) -> None:
        """Show these runs on Compare, or report how to choose some."""

    async def read_listing(self) -> Listing:
        """Read the runs again. Raises StoreError where the store cannot be read."""

    def free_memory(self, numbers: frozenset[int] | None = None) -> None:
        """Free what no live run needs, or these holdings of it."""

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """What `work` returns, called in a thread that nobody waits for when the app is left."""


class Host(Commands, Protocol):
    """What the queue, the watcher and the exit ask of the app besides: their decisions, and some of Textual's `App`."""

    @property
    def current_mode(self) -> str: ...

    def switch_mode(self, mode: str) -> object: ...

    def run_worker(self, work: Coroutine[Any, Any, None], *, group: str = ..., exclusive: bool = ...) -> object: ...

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call in the thread of the event loop; any thread may ask. Does nothing once the loop is closed."""

    def exit(self, *, return_code: int = ...) -> None: ...

    def start_turn(self, turn: Turn, show: bool) -> None:
        """Start the run whose turn it is in the queue; `show` goes to its live screen."""

    def queue_is_empty(self) -> None:
        """Nothing waits any more."""
