"""The smallest app worth the name: what any Textual program needs before its first paint."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.widgets import Footer, Input, Static


class ThreeWidgets(App[None]):
    def compose(self) -> ComposeResult:
        yield Static("three widgets")
        yield Input()
        yield Footer()


if __name__ == "__main__":
    ThreeWidgets().run()
