"""What the panes of Data share: the open dataset, the decisions, and which images are marked or left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from textual.containers import Vertical

from engine.data.audit.values import ImagePair, ImageRef
from engine.spec import RunSpec
from engine.text import safe_text
from tui.widgets.gallery import Picture

if TYPE_CHECKING:
    from engine.data.audit.opened import OpenDataset


@dataclass(slots=True)
class DataSession:
    """`marked` and `excluded` are by hash. `spec` is what would be trained now."""

    opened: OpenDataset
    spec: RunSpec
    decisions: dict[tuple[str, str], str]
    marked: dict[str, ImageRef] = field(default_factory=dict)
    excluded: dict[str, ImageRef] = field(default_factory=dict)

    def picture(self, image: ImageRef, *more: str) -> Picture:
        """The image with its part, index and class below it, and its file."""
        mark = "✗ " if image.sha256 in self.excluded else "● " if image.sha256 in self.marked else ""
        caption = f"{mark}{image.part} {image.index} · {safe_text(image.class_name)}"
        return Picture(self.opened.pixels(image), (caption, *more), image.file)

    def toggle_mark(self, image: ImageRef) -> None:
        if self.marked.pop(image.sha256, None) is None:
            self.marked[image.sha256] = image

    def decision_on(self, pair: ImagePair) -> str:
        return self.decisions.get(pair.key, "undecided")


class LookPane(Vertical):
    """One tab of Data. `focus_on` is what takes the keys when the tab is opened."""

    DEFAULT_CSS = "LookPane { height: 1fr; }"
    focus_on = ""

    def __init__(self) -> None:
        super().__init__()
        self.session: DataSession | None = None

    def show(self, session: DataSession) -> None:
        """The dataset is open."""
        self.session = session
        self.refresh_pane()

    def refresh_pane(self) -> None:
        """Draw again what may have changed."""
        raise NotImplementedError
