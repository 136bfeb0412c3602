"""Set up's two menus, and the rows of the architectures."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from engine.catalog.models import MODELS, MORE_MODELS
from tui.screens.own_datasets import YOUR_FOLDER
from tui.text import millions
from tui.widgets.menu import Menu, Row

MORE = "more …"
_MARK = Binding("space", "mark", "Mark", tooltip="mark the row for the queue, or unmark it")


class Datasets(Menu):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Architecture", tooltip="continue to Architecture"),
        _MARK,
    ]

    def action_mark(self) -> None:
        if self.chosen != YOUR_FOLDER:
            self.mark()


class Models(Menu):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Train", tooltip="train the highlighted pair now"),
        _MARK,
    ]

    def action_mark(self) -> None:
        if self.chosen != MORE:
            self.mark()


def model_rows(more: list[str]) -> list[Row]:
    shown = [*MODELS, *(info for info in MORE_MODELS if info.name in more)]
    rows = [Row(info.name, (info.name, millions(info.num_parameters), str(info.depth or "–"))) for info in shown]
    return [*rows, Row(MORE, (MORE, "", ""))]
