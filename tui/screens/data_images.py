"""Panes of Data that show pictures: the gallery, in which images are marked and left out, and pairs to decide on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.data.audit.findings import pairs_to_decide
from engine.data.audit.values import PART_WORDS, ImagePair, ImageRef
from tui.screens.data_session import DataSession, LookPane
from tui.text import counted, plain_content
from tui.widgets.gallery import Picture, StillGallery
from tui.widgets.picker import LargePicture, LazyPictures, Picker

_ANSWERS = {"same": "✓ the same", "different": "✗ different", "undecided": "undecided"}


class Enlarged(ModalScreen[None]):
    """One picture over the whole screen; any of its keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,space", "dismiss(None)", "Back")]
    DEFAULT_CSS = "Enlarged LargePicture { width: 100%; height: 100%; }"

    def __init__(self, picture: Picture) -> None:
        super().__init__()
        self._picture = picture

    def compose(self) -> ComposeResult:
        yield LargePicture(self._picture)


class ImagesPane(LookPane):
    """The images of a part and a class, or of a finding."""

    focus_on = "#picker"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "part", "Part", tooltip="training, validation, test, or all"),
        Binding("c", "class(1)", "Class", tooltip="the next class, or all"),
        Binding("C", "class(-1)", "Class back", show=False, tooltip="the class before"),
        Binding("a", "mark_all", "All", tooltip="mark all images listed here, or unmark them"),
        Binding("x", "exclude", "Exclude", tooltip="leave the marked images out of the next runs, or take them back"),
    ]

    class ExcludeRequested(Message):
        """The marked images are to be left out; those left out already are to be taken back."""

    def __init__(self) -> None:
        super().__init__()
        self._part: str | None = None
        self._class: str | None = None
        self._finding: tuple[str, tuple[ImageRef, ...]] | None = None
        self._listed: Sequence[ImageRef] = ()

    def compose(self) -> ComposeResult:
        yield Static(id="which", classes="dim", markup=False)
        yield Picker("picker")

    @property
    def image(self) -> ImageRef | None:
        """The one under the cursor."""
        cursor = self.query_one(Picker).cursor
        return self._listed[cursor] if cursor < len(self._listed) else None

    def list_class(self, name: str | None) -> None:
        self._class, self._finding = name, None
        self.refresh_pane()

    def list_finding(self, title: str, images: tuple[ImageRef, ...]) -> None:
        self._finding = title, tuple(dict.fromkeys(images))
        self.refresh_pane()

    def action_part(self) -> None:
        if self.session is not None:
            parts = [None, *(part.part for part in self.session.opened.audit.parts)]
            self._part = parts[(parts.index(self._part) + 1) % len(parts)]
            self.list_class(self._class)

    def action_class(self, by: int) -> None:
        if self.session is not None:
            names = [None, *self.session.opened.audit.class_names]
            self.list_class(names[(names.index(self._class) + by) % len(names)])

    def refresh_pane(self) -> None:
        if self.session is None:
            return
        session = self.session
        self._listed = self._finding[1] if self._finding else session.opened.chosen(self._part, self._class)
        listed = self._listed
        pictures = LazyPictures(len(listed), lambda index: session.picture(listed[index]))
        self.query_one(Picker).show(pictures, "no image in this part and class")
        self._describe(session)

    def _describe(self, session: DataSession) -> None:
        part = PART_WORDS.get(self._part or "", "all parts")
        what = self._finding[0] if self._finding else f"{part} · {self._class or 'all classes'}"
        words = [f"{what}: {counted(len(self._listed), 'image')}"]
        words += [f"{len(session.marked):,} marked ●"] if session.marked else []
        words += [f"{len(session.excluded):,} left out ✗"] if session.excluded else []
        self.query_one("#which", Static).update(plain_content(" · ".join(words)))

    def redraw(self) -> None:
        """Marks have changed; the cursor stays."""
        if self.session is not None:
            self._describe(self.session)
            self.query_one(Picker).redraw()

    @on(Picker.Marked)
    def _mark(self, event: Picker.Marked) -> None:
        if self.session is not None:
            self.session.toggle_mark(self._listed[event.index])
            self.redraw()

    @on(Picker.Chosen)
    def _enlarge(self, event: Picker.Chosen) -> None:
        if self.session is not None:
            self.app.push_screen(Enlarged(self.session.picture(self._listed[event.index])))

    def action_mark_all(self) -> None:
        if self.session is None:
            return
        marked = self.session.marked
        if all(image.sha256 in marked for image in self._listed):
            for image in self._listed:
                marked.pop(image.sha256, None)
        else:
            marked |= {image.sha256: image for image in self._listed}
        self.redraw()

    def action_exclude(self) -> None:
        self.post_message(self.ExcludeRequested())


class PairsPane(LookPane):
    """Near-duplicates, one pair at a time, for a person to decide."""

    focus_on = "#pair"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "decide('same')", "Same", tooltip="both show the same image"),
        Binding("d", "decide('different')", "Different", tooltip="they are different images"),
        Binding("z", "decide('undecided')", "Undecide", show=False, tooltip="take the decision back"),
        Binding("n,right,l,down,j", "move(1)", "Next", key_display="→", tooltip="the next pair"),
        Binding("b,left,h,up,k", "move(-1)", "Before", key_display="←", tooltip="the pair before"),
        Binding("space", "mark", "Mark", tooltip="mark the second image, for x in Images"),
    ]

    class Decided(Message):
        """A person has decided on a pair."""

        def __init__(self, pair: ImagePair, decision: str) -> None:
            super().__init__()
            self.pair, self.decision = pair, decision

    def __init__(self) -> None:
        super().__init__()
        self._pairs: tuple[ImagePair, ...] = ()
        self._at = 0

    def compose(self) -> ComposeResult:
        yield Static(id="pair-text", markup=False)
        yield PairGallery(id="pair")

    def show(self, session: DataSession) -> None:
        self._pairs = pairs_to_decide(session.opened.audit)
        super().show(session)

    def refresh_pane(self) -> None:
        if self.session is None:
            return
        gallery, words = self.query_one(PairGallery), self.query_one("#pair-text", Static)
        if not self._pairs:
            words.update(plain_content(self.session.opened.audit.near_note or "no two images look alike"))
            gallery.show(())
            return
        pair = self._pairs[self._at]
        how = f"{pair.bits} of 64 bits differ" if pair.bits is not None else f"cosine {pair.similarity:.4f}"
        across = " · in two parts" if pair.a.part != pair.b.part else ""
        words.update(
            plain_content(
                f"pair {self._at + 1:,} of {len(self._pairs):,} · {how}{across} · "
                f"{_ANSWERS[self.session.decision_on(pair)]} · {self.num_undecided:,} undecided",
                "bold",
            )
        )
        gallery.show([self.session.picture(pair.a), self.session.picture(pair.b)])

    @property
    def num_undecided(self) -> int:
        decisions = self.session.decisions if self.session else {}
        return sum(pair.key not in decisions for pair in self._pairs)

    def action_move(self, by: int) -> None:
        if self._pairs:
            self._at = (self._at + by) % len(self._pairs)
            self.refresh_pane()

    def action_mark(self) -> None:
        if self.session is not None and self._pairs:
            self.session.toggle_mark(self._pairs[self._at].b)
            self.refresh_pane()

    def action_decide(self, decision: str) -> None:
        if self._pairs:
            self.post_message(self.Decided(self._pairs[self._at], decision))

    def decided(self) -> None:
        """Go to the next pair that is not decided, if any."""
        assert self.session is not None
        for step in range(1, len(self._pairs)):
            at = (self._at + step) % len(self._pairs)
            if self._pairs[at].key not in self.session.decisions:
                self._at = at
                break
        self.refresh_pane()


class PairGallery(StillGallery, can_focus=True):
    """Two pictures side by side, as large as fits."""

    def side_of(self, width: int, height: int) -> int:
        return max(min((width - 2) // 2, 2 * (height - self._lines_below - 1)) // 2 * 2, 2)
