"""Predict: what a trained run predicts for a person's own image, the picture beside the five surest classes; or for
the images of a folder, each with its class below it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.suggester import Suggester
from textual.widgets import Input, Static

from engine.control import RunControl
from engine.errors import ReslabError
from engine.paths import expand
from engine.records import RunDetails
from engine.text import counted, percent, safe_text
from tui.commands import Commands
from tui.screens.base import LabDialog
from tui.state import AppState
from tui.text import plain_content
from tui.widgets.gallery import Gallery, Picture

if TYPE_CHECKING:
    from engine.predicting import FolderGuesses, Guess

_BAR = 16  # cells
_HELP = "→: complete the path · enter: predict · esc: back"
_TELL_EVERY = 16  # files of a folder


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


class PredictScreen(LabDialog[None]):
    """Stays open for one image after another, until escape."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Back")]

    def __init__(self, state: AppState, commands: Commands, details: RunDetails) -> None:
        super().__init__(state, commands)
        self._details = details
        self._control = RunControl()

    def on_unmount(self) -> None:
        self._control.stop()

    def compose(self) -> ComposeResult:
        record = self._details.record
        with Vertical(classes="dialog wide", id="predict"):
            title = f"What run {record.run}, {record.model} on {record.dataset}, predicts for an image:"
            yield Static(plain_content(title))
            yield Input(placeholder="the path of an image, or of a folder", id="path", suggester=PathSuggester())
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
        self._control.stop()  # whatever folder is still looked through
        self._control = RunControl()
        try:
            await (self._look_through(file) if expand(file).is_dir() else self._look_at(file))
        except ReslabError as error:
            verdict.update(plain_content(f"✗ {error}"))
            verdict.add_class("wrong")

    async def _look_at(self, file: Path) -> None:
        lab, details = self.state.lab, self._details
        guesses, pixels = await self.commands.run_in_thread(lambda: lab.predict_picture(details, file))
        self._show([Picture(pixels, (file.name, ""))], guess_lines(guesses), folder=False)
        self.query_one("#verdict", Static).update(_HELP)

    async def _look_through(self, folder: Path) -> None:
        lab, details, control = self.state.lab, self._details, self._control
        found = await self.commands.run_in_thread(lambda: lab.predict_pictures(details, folder, self._tell, control))
        pictures = [
            Picture(pixels, (f"{guesses[0].class_name} {percent(guesses[0].confidence, 1)}", name))
            for name, guesses, pixels in found.images
        ]
        self._show(pictures, Content(""), folder=True)
        self.query_one(Gallery).focus()
        self.query_one("#verdict", Static).update(plain_content(folder_text(found, details.record.run)))

    def _tell(self, done: int, total: int) -> None:
        """Called in the thread that looks through a folder."""
        if done % _TELL_EVERY == 0:
            self.app.call_later(self._told, done, total)

    def _told(self, done: int, total: int) -> None:
        if self.is_mounted:
            self.query_one("#verdict", Static).update(f"predicting {done:,} of {total:,} files …")

    def _show(self, pictures: Sequence[Picture], guesses: Content, folder: bool) -> None:
        self.set_class(folder, "folder")
        self.query_one("#guesses", Static).update(guesses)
        self.query_one(Gallery).show(pictures)


def folder_text(found: FolderGuesses, run: int) -> str:
    """What was shown of a folder, what was not, and how to turn the pages."""
    counts = Counter(guesses[0].class_name for _, guesses, _ in found.images)
    said = [f"{safe_text(name, 16)} {number:,}×" for name, number in counts.most_common(3)]
    said += [counted(len(counts) - 3, "more class", "more classes")] if len(counts) > 3 else []
    text = f"{counted(len(found.images), 'image')}: {', '.join(said)}"
    text += f" · left out {counted(found.num_left_out, 'other file')}" if found.num_left_out else ""
    if found.num_to_go:
        text += f" · {counted(found.num_to_go, 'file')} not read: reslab predict {run} FOLDER reads all"
    return f"{text} · n, b: pages · esc: back"


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
