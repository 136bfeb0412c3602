"""Predict: what a trained run predicts for the user's own image, with its five most likely classes, or for the images
of a folder, each with its class below it.
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

from engine.catalog.models import short_model
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
_PROGRESS_EVERY = 16  # files


class PathSuggester(Suggester):
    """Suggests the first file or folder whose name starts with the typed text."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        return await asyncio.to_thread(complete_path, value)


def complete_path(typed: str) -> str | None:
    """`typed`, completed to the first path in alphabetical order that starts with it; None if there is none."""
    folder, _, start = typed.rpartition("/")
    try:
        root = expand(f"{folder}/" if folder or typed.startswith("/") else ".")
        names = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    except (OSError, RuntimeError):  # no such folder or home
        return None
    found = next((name for name in names if name.startswith(start) and (start or not name.startswith("."))), None)
    return None if found is None else typed[: len(typed) - len(start)] + found


class PredictScreen(LabDialog[None]):
    """Stays open for more images until escape."""

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
            title = f"Predict an image with run {record.run}, {short_model(record.model)} on {record.dataset}:"
            yield Static(plain_content(title))
            yield Input(placeholder="path of an image or a folder", id="path", suggester=PathSuggester())
            with Horizontal():
                yield Gallery(id="picture")
                yield Static(id="guesses", markup=False)
            yield Static(_HELP, id="verdict", classes="dim", markup=False)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self.predict(Path(event.value.strip()))

    @work(exclusive=True, group="predict")
    async def predict(self, file: Path) -> None:
        verdict = self.query_one("#verdict", Static)
        verdict.remove_class("wrong")
        verdict.update("predicting …")
        self._control.stop()  # a folder may still be in progress
        self._control = RunControl()
        try:
            await (self._predict_folder(file) if expand(file).is_dir() else self._predict_image(file))
        except ReslabError as error:
            verdict.update(plain_content(f"✗ {error}"))
            verdict.add_class("wrong")

    async def _predict_image(self, file: Path) -> None:
        lab, details = self.state.lab, self._details
        guesses, pixels = await self.commands.run_in_thread(lambda: lab.predict_picture(details, file))
        self._show([Picture(pixels, (file.name, ""))], guess_lines(guesses), folder=False)
        self.query_one("#verdict", Static).update(_HELP)

    async def _predict_folder(self, folder: Path) -> None:
        lab, details, control = self.state.lab, self._details, self._control
        found = await self.commands.run_in_thread(
            lambda: lab.predict_pictures(details, folder, self._report_progress, control)
        )
        pictures = [
            Picture(pixels, (f"{guesses[0].class_name} {percent(guesses[0].confidence, 1)}", name))
            for name, guesses, pixels in found.images
        ]
        self._show(pictures, Content(""), folder=True)
        self.query_one(Gallery).focus()
        self.query_one("#verdict", Static).update(plain_content(folder_text(found, details.record.run)))

    def _report_progress(self, done: int, total: int) -> None:
        """Called in the thread that predicts a folder."""
        if done % _PROGRESS_EVERY == 0:
            self.app.call_later(self._show_progress, done, total)

    def _show_progress(self, done: int, total: int) -> None:
        if self.is_mounted:
            self.query_one("#verdict", Static).update(f"predicting {done:,} of {total:,} files …")

    def _show(self, pictures: Sequence[Picture], guesses: Content, folder: bool) -> None:
        self.set_class(folder, "folder")
        self.query_one("#guesses", Static).update(guesses)
        self.query_one(Gallery).show(pictures)


def folder_text(found: FolderGuesses, run: int) -> str:
    """How many images of a folder are shown, how many are not, and the keys for paging."""
    counts = Counter(guesses[0].class_name for _, guesses, _ in found.images)
    parts = [f"{safe_text(name, 16)} {number:,}×" for name, number in counts.most_common(3)]
    parts += [counted(len(counts) - 3, "more class", "more classes")] if len(counts) > 3 else []
    text = f"{counted(len(found.images), 'image')}: {', '.join(parts)}"
    text += f" · left out {counted(found.num_left_out, 'other file')}" if found.num_left_out else ""
    if found.num_to_go:
        text += f" · {counted(found.num_to_go, 'file')} not read: reslab predict {run} FOLDER reads all"
    return f"{text} · n, b: pages · esc: back"


def guess_lines(guesses: tuple[Guess, ...]) -> Content:
    """One line per class: its name, a bar and its softmax."""
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
