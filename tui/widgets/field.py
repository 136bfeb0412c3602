"""A text field that is not always visible. While hidden it takes no focus, so that no key is typed unseen."""

from __future__ import annotations

from textual.widgets import Input


class Field(Input):
    """Hidden at first, one line high."""

    DEFAULT_CSS = "Field { height: 1; border: none; padding: 0 1; }"

    def __init__(self, id: str, placeholder: str = "") -> None:
        super().__init__(id=id, placeholder=placeholder, compact=True)
        self.display = False

    def allow_focus(self) -> bool:
        return self.display and super().allow_focus()
