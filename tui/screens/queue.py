"""The queue: view, reorder, remove, resume or hold waiting runs."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Static

from engine.catalog.models import short_model
from tui.screens.base import LabDialog, follow
from tui.text import counted, plain_content
from tui.widgets.key_bar import KeyBar
from tui.widgets.menu import Menu, Row


class QueueScreen(LabDialog[None]):
    """Follows the queue and the live run."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("K,shift+up", "move(-1)", "Up", tooltip="run it earlier", key_display="K"),
        Binding("J,shift+down", "move(1)", "Down", tooltip="run it later", key_display="J"),
        Binding("d", "remove", "Remove", tooltip="remove it from the queue"),
        Binding("g", "start", "Resume", tooltip="run all waiting runs, including those on hold"),
        Binding("h", "hold", "Hold", tooltip="hold all waiting runs; the live run continues"),
        Binding("escape,q,u", "dismiss(None)", "Back", tooltip="back", key_display="esc"),
    ]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide", id="queue-dialog"):
            yield Static(id="state", markup=False)
            yield Menu([], id="waiting")
        yield KeyBar()

    def on_mount(self) -> None:
        self.redraw()
        follow(self, self.state.queue, lambda queue: self.redraw())
        follow(self, self.state.live, lambda live: self.redraw())
        follow(self, self.state.run_changed, lambda live: self.redraw())

    def redraw(self) -> None:
        queue, live = self.state.queue.value, self.state.live.value
        running = "nothing"
        if live and not live.over:
            running = f"{short_model(live.spec.model)} on {live.spec.dataset}, {live.state}"
        resume = " · g resumes" if queue.held else ""
        text = f"{queue.done} done, running: {running}\n{queue.summary or 'no runs waiting'}{resume}"
        if self.state.settings.side_by_side:
            text = (
                f"{len(queue.started)} started on the cluster, watching: {running}\n"
                f"{len(queue.waiting)} waiting for capacity"
            )
        self.query_one("#state", Static).update(plain_content(text.splitlines()[0]) + "\n" + text.splitlines()[1])
        menu = self.query_one(Menu)
        rows = [
            Row(
                str(item.number),
                (
                    f"{short_model(item.spec.model)} on {item.spec.dataset}",
                    *(["on hold" if item in queue.held else ""] if queue.held else []),
                    counted(item.spec.epochs, "epoch"),
                    f"seed {item.spec.seed}",
                ),
            )
            for item in queue.waiting
        ]
        if rows != menu.rows:
            chosen = menu.chosen if menu.ids else None
            menu.set_rows(rows)
            if chosen in menu.ids:
                menu.choose(str(chosen))
        self.refresh_bindings()

    def action_move(self, by: int) -> None:
        menu = self.query_one(Menu)
        if not menu.ids:  # still loading
            return
        number = int(menu.chosen)
        self.commands.queue.change(lambda store: store.move_waiting(number, by))

    def action_remove(self) -> None:
        menu = self.query_one(Menu)
        if not menu.ids:
            return
        number = int(menu.chosen)
        self.commands.queue.change(lambda store: store.remove_waiting(number))

    def action_start(self) -> None:
        self.commands.queue.start()

    def action_hold(self) -> None:
        self.commands.queue.hold()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        queue = self.state.queue.value
        if action in ("move", "remove"):
            return bool(queue.waiting) or None
        if action == "start":
            return bool(queue.held) or None
        if action == "hold":
            running = len(queue.waiting) > len(queue.held)
            return (running and not self.state.settings.side_by_side) or None
        return True
