"""Set up's two menus, and the rows of architectures: the tables', the user's own, timm's and those of packages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType

from engine.catalog.models import MODELS, MORE_MODELS, ModelInfo, find_model
from tui.screens.own_datasets import YOUR_FOLDER
from tui.text import millions
from tui.widgets.menu import Menu, Row

MORE = "more …"

_MARK = Binding("space", "mark", "Mark", tooltip="mark the row for the queue, or unmark it")


class DatasetMenu(Menu):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Architecture", tooltip="continue to Architecture"),
        _MARK,
    ]

    def action_mark(self) -> None:
        if self.chosen != YOUR_FOLDER:
            self.mark()


class ModelMenu(Menu):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Train", tooltip="train the highlighted pair now"),
        _MARK,
    ]

    def action_mark(self) -> None:
        if self.chosen != MORE:
            self.mark()


def model_rows(more: Sequence[str]) -> list[Row]:
    """The first table's, then `more`: torchvision's in their order, the user's own, packages' and timm's."""
    hidden = [info for info in MORE_MODELS if info.name in more]
    others = [find_model(name) for name in more if name not in {info.name for info in hidden}]
    shown = (*MODELS, *hidden, *others)
    rows = [Row(info.name, (info.short_name, millions(_native_count(info)), str(info.depth or "–"))) for info in shown]
    return [*rows, Row(MORE, (MORE, "", ""))]


def _native_count(info: ModelInfo) -> int | None:
    if info.origin != "timm":
        return info.num_parameters
    from engine.catalog.timm_table import native_count

    return native_count(info.name)


def more_models() -> list[ModelInfo]:
    """What "more …" offers: torchvision's others and, where it is installed, timm's."""
    from engine.catalog.own_models import timm_models
    from engine.catalog.timm_table import is_timm_installed

    return [*MORE_MODELS, *(timm_models() if is_timm_installed() else ())]


def more_text() -> str:
    """What "more …" offers, in a line of a narrow terminal."""
    from engine.catalog.timm_table import is_timm_installed

    if is_timm_installed():
        return f"enter: {len(MORE_MODELS)} more from torchvision, all of timm, or a file of your own"
    return f"enter: {len(MORE_MODELS)} more from torchvision, or your own file · timm: uv pip install timm"
