"""The recipe: every setting of `RunSpec` as a row, edited in index and checked at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from engine.errors import SpecError
from engine.settings import Setting, Value
from engine.text import safe_text
from tui.text import plain_content
from tui.widgets.field import Field
from tui.widgets.menu import Menu, Row


class _Settings(Menu):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Edit", tooltip="edit the setting, or switch to its next choice")
    ]


class RecipeForm(Vertical):
    """Rows of settings, with help for the highlighted one, or an error message, below them.

    `check` raises SpecError if a whole set of values is not valid.
    """

    DEFAULT_CSS = """
    RecipeForm #about { height: 3; color: $text-muted; padding: 0 1; }
    RecipeForm #about.wrong { color: $text-error; text-style: bold; }
    RecipeForm Field { background: $surface-lighten-1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "cycle(-1)", "Choice", show=False, tooltip="the previous choice", key_display="← h"),
        Binding("right,l", "cycle(1)", "Choice", show=False, tooltip="the next choice", key_display="→ l"),
        Binding("escape", "cancel", "Leave", show=False, tooltip="discard the change"),
        Binding("backspace", "reset", "Default", show=False, tooltip="reset to the default"),
    ]

    class Changed(Message):
        """A setting has changed."""

    def __init__(self, settings: dict[str, Setting], check: Callable[[dict[str, Value]], object], id: str) -> None:
        super().__init__(id=id, classes="pane")
        self.border_title = "Recipe"
        self._settings = settings
        self._check = check
        self.values: dict[str, Value] = {name: item.default for name, item in settings.items()}

    def compose(self) -> ComposeResult:
        yield _Settings(self._rows(), id="settings", num_fixed=2)
        yield Static(self._about(next(iter(self._settings))), id="about", markup=False)

    @property
    def menu(self) -> Menu:
        return self.query_one(Menu)

    @property
    def field(self) -> Field:
        """The text field for values; made on first use, because it costs as much as the rest of the form."""
        fields = self.query(Field)
        if fields:
            return fields.first()
        field = Field("value")
        self.mount(field, before="#about")
        return field

    @property
    def editing(self) -> bool:
        return self.has_class("editing")

    def set_values(self, values: dict[str, Value]) -> None:
        """Set values without checking them."""
        self.values = {**self.values, **values}
        self._redraw()

    @on(Menu.Highlighted)
    def _explain_highlighted(self, event: Menu.Highlighted) -> None:
        if not self.editing:
            self._explain()

    @on(Menu.Selected)
    def _edit(self, event: Menu.Selected) -> None:
        event.stop()
        item = self._settings[self.menu.chosen]
        if item.choices or item.kind is bool:
            self.action_cycle(1)
            return
        self.add_class("editing")
        field = self.field
        field.display = True
        value = self.values[item.name]
        field.value = "" if value is None else item.show(value)
        field.focus()
        self._explain()

    @on(Field.Submitted)
    def _accept(self, event: Field.Submitted) -> None:
        event.stop()
        item = self._settings[self.menu.chosen]
        try:
            self._set(item.name, item.parse(event.value))
        except SpecError as error:
            self._show_error(str(error))
            return
        self._close_editor()

    @on(Field.Changed)
    def _clear_error(self, event: Field.Changed) -> None:
        event.stop()
        self._explain()

    @on(events.DescendantBlur)
    def _leave_editor(self) -> None:
        """Leaving the field accepts its value, as enter does; an invalid value is reported and discarded."""
        if self.editing and self.screen.focused is not (field := self.field):
            item = self._settings[self.menu.chosen]
            try:
                self._set(item.name, item.parse(field.value))
            except SpecError as error:
                self.notify(safe_text(error), severity="error", markup=False)
            self._close_editor(refocus=False)

    def action_cancel(self) -> None:
        if self.editing:
            self._close_editor()  # before the focus moves, so that leaving the field accepts nothing

    def action_reset(self) -> None:
        item = self._settings[self.menu.chosen]
        self._try_to_set(item.name, item.default)

    def action_cycle(self, by: int) -> None:
        item = self._settings[self.menu.chosen]
        value = self.values[item.name]
        if item.kind is bool:
            self._try_to_set(item.name, not value)
        elif item.choices:
            index = item.choices.index(str(value))
            self._try_to_set(item.name, item.choices[(index + by) % len(item.choices)])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action == "cancel" or not self.editing

    def _try_to_set(self, name: str, value: Value) -> None:
        try:
            self._set(name, value)
        except SpecError as error:
            self._show_error(str(error))

    def _set(self, name: str, value: Value) -> None:
        candidate = {**self.values, name: value}
        self._check(candidate)
        self.values = candidate
        self._redraw()
        self._explain()
        self.post_message(self.Changed())

    def _close_editor(self, refocus: bool = True) -> None:
        self.remove_class("editing")
        self.field.display = False
        if refocus:
            self.menu.focus()
        self._explain()

    def _explain(self) -> None:
        item = self._settings[self.menu.chosen]
        about = self.query_one("#about", Static)
        about.remove_class("wrong")
        about.update(self._about(item.name))

    def _about(self, name: str) -> Content:
        item = self._settings[name]
        return plain_content(f"{item.help}: {item.expected}")

    def _show_error(self, text: str) -> None:
        about = self.query_one("#about", Static)
        about.add_class("wrong")
        about.update(plain_content(f"✗ {text}"))

    def _redraw(self) -> None:
        self.menu.set_rows(self._rows())

    def _rows(self) -> list[Row]:
        return [Row(name, (item.label, self._value_text(item))) for name, item in self._settings.items()]

    def _value_text(self, item: Setting) -> str:
        value = self.values[item.name]
        text = "native" if item.name == "image_size" and value is None else item.show(value)
        return text if value == item.default else f"• {text}"
