"""Predict: what a trained run makes of a person's own image, the picture beside the five surest classes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Input, Static

from engine.errors import ReslabError
from engine.paths import expand
from engine.results.records import RunDetails
from engine.text import percent, safe_text
from tui.record import read_guesses
from tui.text import plain_content
from tui.widgets.gallery import Gallery, Picture

if TYPE_CHECKING:
    from engine.predicting import Guess
    from tui.app import ReslabApp

_BAR = 16  # cells
_HELP = "→ completes the path · enter looks · esc goes back"


class PathSuggester(Suggester):
    """The first file or folder whose name goes on from what is typed."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        return await asyncio.to_thread(complete_path, value)


def complete_path(typed: str) -> str | None:
    """`typed` made longer to the first name, in the order of the alphabet, that it is the beginning of."""
    folder, _, start = typed.rpartition("/")
    try:
        root = expand(f"{folder}/" if folder or typed.startswith("/") else ".")
        names = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    except (OSError, RuntimeError):  # no such folder, no such home
        return None
    found = next((name for name in names if name.startswith(start) and (start or not name.startswith("."))), None)
    return None if found is None else typed[: len(typed) - len(start)] + found


class PredictScreen(ModalScreen[None]):
    """Stays open for one image after another, until escape."""

    app: ReslabApp
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Back")]

    def __init__(self, details: RunDetails) -> None:
        super().__init__()
        self._details = details

    def compose(self) -> ComposeResult:
        record = self._details.record
        with Vertical(classes="dialog wide", id="predict"):
            yield Static(plain_content(f"What run {record.run}, {record.model} on {record.dataset}, sees in an image:"))
            yield Input(placeholder="the path of an image", id="path", suggester=PathSuggester())
            with Horizontal():
                yield Gallery(id="picture")
                yield Static(id="guesses", markup=False)
            yield Static(_HELP, id="verdict", classes="dim", markup=False)

    @on(Input.Submitted)
    def _look(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self.look(Path(event.value.strip()))

    @work(exclusive=True, group="predict")
    async def look(self, file: Path) -> None:
        verdict = self.query_one("#verdict", Static)
        verdict.remove_class("wrong")
        verdict.update("looking …")
        try:
            session, details = self.app.session, self._details
            read = session.aside(lambda: read_guesses(session.places, details, file, session.ledger))
            guesses, pixels = await read
        except ReslabError as error:
            verdict.update(plain_content(f"✗ {error}"))
            verdict.add_class("wrong")
            return
        self.query_one(Gallery).show([Picture(pixels, (file.name, ""))])
        self.query_one("#guesses", Static).update(guess_lines(guesses))
        verdict.update(_HELP)


def guess_lines(guesses: tuple[Guess, ...]) -> Content:
    """One line a class: its name, a bar and its softmax."""
    names = [safe_text(guess.class_name, 16) for guess in guesses]
    wide = max(map(len, names))
    return Content("\n").join(
        Content.assemble(
            f"{name:<{wide}} ",
            ("█" * max(round(guess.confidence * _BAR), 1), "$primary"),
            f" {percent(guess.confidence, 1)}",
        )
        for name, guess in zip(names, guesses, strict=True)
    )
