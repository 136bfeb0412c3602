"""Small dialogs over a screen: yes or no, a number, a choice, a path, and the list of keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, Static

from engine.catalog.models import ModelInfo, find_model
from engine.catalog.own_models import absolute_model
from engine.errors import DatasetError, SpecError
from engine.memory.ledger import Holding
from engine.text import memory_size, safe_text
from tui.screens.own_datasets import find_own_dataset
from tui.text import millions, plain_content
from tui.widgets.menu import Menu, Row


class Question(ModalScreen[bool]):
    """y is yes, n or escape is no. Enter does nothing, because it is easily pressed by accident."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,q", "answer(False)", "No"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(plain_content(self._text))
            yield Static(
                Content.from_markup("\n[@click=screen.answer(True)]y yes[/]   [@click=screen.answer(False)]n no[/]")
            )

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class NumberQuestion(ModalScreen[int | None]):
    """Asks for a whole number from 1 to `maximum`."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Back")]

    def __init__(self, text: str, default: int, maximum: int) -> None:
        super().__init__()
        self._text, self._default, self._maximum = text, default, maximum

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(plain_content(self._text))
            yield Input(str(self._default))
            yield Static("enter: accept · esc: cancel", id="verdict", classes="dim", markup=False)

    @on(Input.Submitted)
    def _accept(self, event: Input.Submitted) -> None:
        if event.value.strip().isdecimal() and 1 <= int(event.value) <= self._maximum:
            self.dismiss(int(event.value))
            return
        verdict = self.query_one("#verdict", Static)
        verdict.update(plain_content(f"✗ expected a whole number from 1 to {self._maximum}"))
        verdict.add_class("wrong")


class Choice(ModalScreen[str | None]):
    """Asks for one of a few choices, each with a description."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss(None)", "Back")]

    def __init__(self, text: str, choices: Mapping[str, str]) -> None:
        super().__init__()
        self._text, self._choices = text, choices

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide"):
            yield Static(plain_content(self._text))
            yield Menu([Row(name, (f"{name}: {about}",)) for name, about in self._choices.items()], id="choices")
            yield Static("enter: accept · esc: cancel", classes="dim", markup=False)

    @on(Menu.Selected)
    def _accept(self) -> None:
        self.dismiss(self.query_one(Menu).chosen)


class FreeQuestion(ModalScreen[frozenset[int] | None]):
    """Asks what to free. Shows everything in memory; what a live run needs cannot be chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", "Back"),
        Binding("space", "mark", "Mark"),
    ]

    def __init__(self, holdings: Sequence[Holding]) -> None:
        super().__init__()
        self._idle = {str(item.number) for item in holdings if not item.live}
        self._parts = {
            str(item.number): " · ".join(f"{name} {memory_size(num_bytes)}" for name, num_bytes in item.parts)
            for item in holdings
        }
        self._rows = [
            Row(str(item.number), (_held_name(item), memory_size(item.num_bytes), "live" if item.live else "idle"))
            for item in holdings
        ]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide"):
            yield Static("In memory, most recently used first:" if self._rows else "Nothing is in memory.")
            yield Menu(self._rows, id="choices", num_fixed=3)
            yield Static(self._parts.get(self._rows[0].id, "") if self._rows else "", id="parts", markup=False)
            yield Static("\nspace: mark · enter: free marked rows or this one · esc: cancel", classes="dim")

    @on(Menu.Highlighted)
    def _show_parts(self) -> None:
        self.query_one("#parts", Static).update(self._parts[self.query_one(Menu).chosen])

    def action_mark(self) -> None:
        menu = self.query_one(Menu)
        if self._rows and menu.chosen in self._idle:
            menu.mark()

    @on(Menu.Selected)
    def _accept(self) -> None:
        chosen = [name for name in self.query_one(Menu).marked_or_chosen if name in self._idle]
        if chosen:
            self.dismiss(frozenset(map(int, chosen)))


def _held_name(holding: Holding) -> str:
    return f"{holding.label} #{holding.run}" if holding.kind == "model" else holding.label


class ModelQuestion(ModalScreen[str | None]):
    """Asks for one of many architectures, or a file of the user's own; typing filters the list, arrows move in it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Back"),
        Binding("down", "move(1)", "Down", show=False),
        Binding("up", "move(-1)", "Up", show=False),
    ]

    def __init__(self, models: Sequence[ModelInfo]) -> None:
        super().__init__()
        self._rows = [
            Row(info.name, (info.short_name, millions(info.num_parameters), info.title))
            for info in sorted(models, key=lambda info: info.name)
        ]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide"):
            yield Input(
                placeholder="a part of the name, such as densenet, or your own ~/net.toml or ~/net.py:Net", compact=True
            )
            yield Menu(self._rows, id="choices", num_fixed=2)
            yield Static("↑↓: move · enter: accept · esc: cancel", id="verdict", classes="dim", markup=False)

    def action_move(self, by: int) -> None:
        self.query_one(Menu).action_cursor(by)

    @on(Input.Changed)
    def _narrow(self, event: Input.Changed) -> None:
        words = event.value.lower().split()
        found = [row for row in self._rows if all(word in " ".join(row.cells).lower() for word in words)]
        self.query_one(Menu).set_rows(found, highlight=0)
        self._show("↑↓: move · enter: accept · esc: cancel" if found else _about(event.value))

    def _show(self, text: str) -> None:
        self.query_one("#verdict", Static).update(plain_content(text))

    @on(Input.Submitted)
    def _accept(self) -> None:
        menu = self.query_one(Menu)
        if menu.rows:
            self.dismiss(menu.chosen)
            return
        try:
            self.dismiss(find_own_file(self.query_one(Input).value))
        except SpecError as error:
            self._show(f"✗ {error}")

    @on(Menu.Selected)
    def _accept_clicked(self) -> None:
        self.dismiss(self.query_one(Menu).chosen)


def find_own_file(text: str) -> str:
    """The architecture in a file of the user's own, by its absolute name; nothing is opened.

    Raises:
        SpecError: it is no such name.
    """
    name = absolute_model(text.strip())
    if not find_model(name).is_whole:
        raise SpecError(f"{name} is no file of your own; expected ~/net.py:NAME or ~/net.toml")
    return name


def _about(text: str) -> str:
    """What enter would do with a text that no architecture in the list matches."""
    try:
        info = find_model(text.strip())
    except SpecError:
        return "✗ no matching architecture · your own: ~/net.toml or ~/net.py:Net"
    if info.runs_code:
        return "enter: accept; it is code and runs with all your rights · esc: cancel"
    return "enter: accept · esc: cancel"


class FolderQuestion(ModalScreen[str | None]):
    """Asks for the path of the user's own images; stays open until it is a dataset or escape is pressed. `columns` is
    the recipe's setting for tables.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Back")]

    def __init__(self, columns: str) -> None:
        super().__init__()
        self._columns = columns

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide"):
            about = (
                "Your own images: one folder per class, train/ and test/ folders of classes, a table of paths and "
                "labels (.csv), arrays (.npz), or an archive of these."
            )
            yield Static(about, markup=False)
            yield Input(placeholder="~/pictures", id="path")
            yield Static("enter: accept · esc: cancel", id="verdict", classes="dim", markup=False)

    @on(Input.Submitted)
    def _accept(self, event: Input.Submitted) -> None:
        try:
            self.dismiss(find_own_dataset(event.value, self._columns))
        except (SpecError, DatasetError) as error:
            verdict = self.query_one("#verdict", Static)
            verdict.update(plain_content(f"✗ {error}"))
            verdict.add_class("wrong")


def _key_line(keys: str, about: str) -> Content:
    return Content.assemble((f"{safe_text(keys):>11}  ", "$primary"), safe_text(about))


class Keys(ModalScreen[None]):
    """Lists the keys of the screen below."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss(None)", "Back")]

    def __init__(self, below: Screen[object]) -> None:
        super().__init__()
        self._below = below

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog wide"):
            yield Static(Content("\n").join(self._lines()))

    def _lines(self) -> list[Content]:
        lines = [Content.styled("Keys on this screen", "bold"), Content("")]
        seen = set()
        for active in self._below.active_bindings.values():
            binding = active.binding
            if binding.tooltip and binding.tooltip not in seen:  # every binding of reslab has one
                seen.add(binding.tooltip)
                lines.append(_key_line(self.app.get_key_display(binding), binding.tooltip))
        lines.append(_key_line("↑↓ hjkl", "move in a pane"))
        lines.append(Content.styled("\nesc: back", "dim"))
        return lines
