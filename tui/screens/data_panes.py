"""Panes of Data that list: classes, findings and files left out; and what augmentation makes of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from engine.data.audit.findings import Finding, findings_of
from engine.data.audit.values import ImageRef
from engine.data.manifest import left_out_text
from engine.text import safe_text
from tui.screens.data_session import LookPane
from tui.text import plain_content
from tui.widgets.gallery import Picture, StillGallery
from tui.widgets.table import Table

_MOST_NAME = 40
_MOST_ITEMS = 200
_PICTURES_OF_A_CLASS = 36
_DRAWS_ON_A_PAGE = 24


class OpeningTable(Table):
    """A table whose footer says what enter does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Images", tooltip="the images of this row"),
    ]


class ClassesPane(LookPane):
    """Classes with their counts; filtered by name, sorted by any column."""

    focus_on = "#class-table"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "sort", "Sort", tooltip="sort by the next column"),
        Binding("slash", "filter", "Filter", key_display="/", tooltip="only classes whose name contains a text"),
    ]

    class Opened(Message):
        """The images of a class are wanted."""

        def __init__(self, class_name: str) -> None:
            super().__init__()
            self.class_name = class_name

    def __init__(self) -> None:
        super().__init__()
        self._sort = 0
        self._shown: list[int] = []

    def compose(self) -> ComposeResult:
        yield Input(placeholder="part of a class name · enter: accept", id="filter")
        yield Static(id="class-totals", classes="dim", markup=False)
        yield OpeningTable("class-table")
        yield StillGallery(id="class-pictures")

    def on_mount(self) -> None:
        self.query_one("#filter").display = False

    def refresh_pane(self) -> None:
        assert self.session is not None
        audit, text = self.session.opened.audit, self.query_one("#filter", Input).value.casefold()
        columns = [part.counts for part in audit.parts]
        totals = [sum(counts) for counts in zip(*columns, strict=True)]
        keys = [*columns, totals]
        self._shown = [row for row, name in enumerate(audit.class_names) if text in name.casefold()]
        if self._sort:
            self._shown.sort(key=lambda row: -keys[self._sort - 1][row])
        titles = ["class", *(part.part for part in audit.parts), "all", ""]
        titles[self._sort] += " ↓" if self._sort else " ↑"
        most = max(totals)
        rows = [
            (safe_text(audit.class_names[row], _MOST_NAME), *(f"{column[row]:,}" for column in keys),
             "█" * round(20 * totals[row] / most))
            for row in self._shown
        ]  # fmt: skip
        table = self.query_one("#class-table", Table)
        table.styles.height = len(rows) + 1
        show_rows(table, titles, rows, left=(0, len(titles) - 1))
        self._show_pictures()
        words = [f"{part.part} {part.total:,}" for part in audit.parts]
        smallest, largest = min(totals), max(totals)
        ratio = f" · largest : smallest {largest / smallest:.1f}" if smallest else ""
        self.query_one("#class-totals", Static).update(
            plain_content(f"{len(self._shown):,} of {len(totals):,} classes · {' · '.join(words)}{ratio}")
        )

    def action_sort(self) -> None:
        if self.session is not None:
            self._sort = (self._sort + 1) % (len(self.session.opened.audit.parts) + 2)
            self.refresh_pane()

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    @on(Input.Changed, "#filter")
    def _filtered(self) -> None:
        if self.session is not None:
            self.refresh_pane()

    @on(Input.Submitted, "#filter")
    def _accepted(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = bool(field.value)
        self.query_one("#class-table").focus()

    def clear_filter(self) -> bool:
        """Escape: end filtering; False if there was nothing to end."""
        field = self.query_one("#filter", Input)
        if not field.display:
            return False
        field.value, field.display = "", False
        self.query_one("#class-table").focus()
        return True

    @on(Table.Highlighted, "#class-table")
    def _show_pictures(self) -> None:
        row = self.query_one("#class-table", Table).highlighted
        if self.session is None or row is None or row >= len(self._shown):
            return
        name = self.session.opened.audit.class_names[self._shown[row]]
        images = self.session.opened.chosen(None, name)[:_PICTURES_OF_A_CLASS]
        self.query_one("#class-pictures", StillGallery).show([self.session.picture(image) for image in images])

    @on(Table.Selected, "#class-table")
    def _open(self) -> None:
        table = self.query_one("#class-table", Table)
        if self.session is not None and table.highlighted is not None:
            number = self._shown[table.highlighted]
            self.post_message(self.Opened(self.session.opened.audit.class_names[number]))


class FindingsPane(LookPane):
    """What the audit found, and what that means; enter shows the images."""

    focus_on = "#finding-table"

    class Opened(Message):
        """The images of a finding are wanted."""

        def __init__(self, title: str, images: tuple[ImageRef, ...]) -> None:
            super().__init__()
            self.title, self.images = title, images

    def __init__(self) -> None:
        super().__init__()
        self._findings: tuple[Finding, ...] = ()

    @property
    def number(self) -> int:
        return len(self._findings)

    def compose(self) -> ComposeResult:
        yield OpeningTable("finding-table", left=(1,))
        with VerticalScroll(id="finding", can_focus=False):
            yield Static(id="finding-text", markup=False)

    def refresh_pane(self) -> None:
        assert self.session is not None
        session = self.session
        self._findings = findings_of(session.opened.audit, session.decisions, session.spec.batch_size)
        rows = [(f"{finding.number:,}", safe_text(finding.title)) for finding in self._findings]
        table = self.query_one("#finding-table", Table)
        table.styles.height = min(len(rows), 10) + 1
        show_rows(table, ("number", "finding"), rows, left=(1,))
        self._show_finding()

    @on(Table.Highlighted, "#finding-table")
    def _show_finding(self) -> None:
        row = self.query_one("#finding-table", Table).highlighted
        text = self.query_one("#finding-text", Static)
        if row is None or row >= len(self._findings):
            text.update("nothing found that would make the figures doubtful")
            return
        found = self._findings[row]
        lines = [plain_content(found.meaning, "bold"), Content("")]
        lines += [plain_content(item) for item in found.items[:_MOST_ITEMS]]
        if (rest := len(found.items) - _MOST_ITEMS) > 0:
            lines.append(plain_content(f"… and {rest:,} more: reslab audit --json lists all", "dim"))
        text.update(Content("\n").join(lines))
        self.query_one("#finding", VerticalScroll).scroll_home(animate=False)

    @on(Table.Selected, "#finding-table")
    def _open(self) -> None:
        row = self.query_one("#finding-table", Table).highlighted
        if row is not None and row < len(self._findings) and self._findings[row].images:
            self.post_message(self.Opened(self._findings[row].title, self._findings[row].images))


class Draws(StillGallery, can_focus=True):
    """Takes the focus for its pane's keys."""


class AugmentedPane(LookPane):
    """One image, and what the recipe's augmentation makes of it."""

    focus_on = "#draws"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "draw", "Draw again", tooltip="other draws of the same image"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._first = 1
        self.image: ImageRef | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="augmentation", classes="dim", markup=False)
        yield Draws(id="draws")

    def action_draw(self) -> None:
        self._first += _DRAWS_ON_A_PAGE
        self.refresh_pane()

    def refresh_pane(self) -> None:
        if self.session is None:
            return
        session, spec = self.session, self.session.spec
        image = self.image or next(iter(session.opened.refs))
        parts = ["flip"] if spec.flip else []
        parts += [f"crop padding {spec.crop_padding}"] if spec.crop_padding else []
        words = self.query_one("#augmentation", Static)
        pictures = [session.picture(image)]
        if not parts:
            words.update("the recipe augments nothing: flip and crop padding in Set up do")
        else:
            words.update(
                plain_content(f"{image.name} with {' and '.join(parts)} · as the steps of a run would draw it")
            )
            for draw in range(self._first, self._first + _DRAWS_ON_A_PAGE):
                pictures.append(Picture(session.opened.augmented(image, spec, draw), (f"draw {draw}",)))
        self.query_one(Draws).show(pictures)


class LeftOutPane(LookPane):
    """The files that no run uses, with the reason."""

    focus_on = "#left-out-table"

    def compose(self) -> ComposeResult:
        yield Static(id="left-out-text", classes="dim", markup=False)
        yield Table("left-out-table", left=(0, 1))

    def refresh_pane(self) -> None:
        assert self.session is not None
        audit = self.session.opened.audit
        words = self.query_one("#left-out-text", Static)
        words.update(plain_content(left_out_text(audit.left_out_by_kind) or "no file left out"))
        rows = [(safe_text(item.file), safe_text(item.problem)) for item in audit.left_out]
        show_rows(self.query_one("#left-out-table", Table), ("left out", "why"), rows)


def show_rows(
    table: Table, titles: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] | None = None
) -> None:
    """Show rows of safe text, with columns as wide as their widest cell; `left` replaces the left-aligned ones."""
    widths = [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]
    if left is not None:
        table.align_left(left)
    table.show(titles, widths, list(enumerate(rows)))
