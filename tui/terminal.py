"""A Textual driver that survives losing the terminal and separates escape from the keys that follow it.

Textual's writer thread ends at the first error, and its queue is then never emptied: the event loop blocks at the 31st
write. On SIGCONT, which comes with a hang-up, Textual starts a second pair of threads next to the first. And it reads a
lost terminal's end of file in an endless loop. This driver drops writes to a lost terminal, starts nothing on it, and
posts one message to the app.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import sys
import termios
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable
from typing import IO, Any

from textual import events
from textual._xterm_parser import XTermParser
from textual.app import App, ScreenStackError
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message
from textual.widgets import Input

from tui.messages import TerminalLost

_CHECK_EVERY_S = 1.0
_ESCAPE_S = 0.1  # how long to wait for the rest of a sequence after its escape
_ESCAPE = "\x1b[27u"  # the escape key, unambiguous (Kitty's keyboard protocol)
# An escape, then a character that neither starts a sequence nor ends a terminal's reply: two keys.
_TWO_KEYS = re.compile(r"\x1b(?=[^\x1b\[O\]P_^X\\])")
_TWO_KEYS_IN_TEXT = re.compile(r"\x1b(?=[^\x1b\[O\]P_^X\\bf\x7f])")  # keeps alt+b, alt+f, alt+backspace


class EscapeFilter:
    """Separates the escape key from the start of a sequence.

    On a busy machine, escape and a following q are read together. Textual takes them for alt+q, which is not bound, and
    both keys are lost.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str, in_text: bool) -> str:
        """The text read ("" after a timeout), with each escape key made unambiguous. An escape at the end is held back
        until the next call. `in_text`: a text field has the focus.
        """
        if not text:
            held, self._held = self._held, ""
            return _ESCAPE if held else ""
        text = self._held + text
        self._held = "\x1b" if text.endswith("\x1b") else ""
        text = text.removesuffix("\x1b")
        return (_TWO_KEYS_IN_TEXT if in_text else _TWO_KEYS).sub(lambda _: _ESCAPE, text)


class SafeFile:
    """A terminal's output. Once the terminal is gone, calls `on_lost` once and drops all writes."""

    def __init__(self, file: IO[str], on_lost: Callable[[], None]) -> None:
        self._file = file
        self._on_lost = on_lost
        self.gone = False

    def write(self, text: str) -> int:
        self._try(lambda: self._file.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._file.flush)

    def fileno(self) -> int:
        return self._file.fileno()

    def _try(self, write: Callable[[], object]) -> None:
        if self.gone:
            return
        try:
            write()
        except OSError:
            self.gone = True
            self._on_lost()


class TerminalDriver(LinuxDriver):
    """Posts TerminalLost once when a write, a read or the regular check finds the terminal gone."""

    def __init__(
        self, app: App[Any], *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        assert sys.__stderr__ is not None
        self._screen = SafeFile(sys.__stderr__, self.mark_lost)
        self._file = self._screen  # type: ignore[assignment]  # for the writer thread, which must not end on an error
        self._is_lost = False
        self._escape_filter = EscapeFilter()
        # In the event loop, not in a signal handler, which could interrupt a write.
        self._loop.add_signal_handler(signal.SIGCONT, self._resume_after_stop)
        self._check_regularly()

    @property
    def lost(self) -> bool:
        return self._is_lost

    def mark_lost(self) -> None:
        """The terminal is gone. Safe from any thread."""
        if not self._is_lost:
            self._is_lost = True
            self._screen.gone = True
            self.exit_event.set()  # ends the input thread
            self._app.post_message(TerminalLost())

    def check(self) -> bool:
        """Whether the terminal is still there."""
        if not self._is_lost:
            try:
                termios.tcgetattr(self.fileno)
            except termios.error:
                self.mark_lost()
        return not self._is_lost

    def _check_regularly(self) -> None:
        if self.check():
            self._loop.call_later(_CHECK_EVERY_S, self._check_regularly)

    def _resume_after_stop(self) -> None:
        """On SIGCONT: take the terminal again. After a SIGSTOP the threads are still running."""
        if not (self._auto_restart and self.check()):
            return
        if not self._must_signal_resume:
            self.suspend_application_mode()
        self.resume_application_mode()
        self._app.call_later(self._app.refresh, layout=True)

    def start_application_mode(self) -> None:
        if self.check():
            super().start_application_mode()  # type: ignore[no-untyped-call]

    def run_input_thread(self) -> None:
        """Read keys until the app exits or the terminal is gone, which reads as an error or as no data."""
        parser, decode = XTermParser(self._debug), getincrementaldecoder("utf-8")("replace").decode
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                text = ""
                if selector.select(_ESCAPE_S):
                    data = self._read()
                    if not data:
                        self.mark_lost()
                        return
                    text = decode(data)
                if text := self._escape_filter.feed(text, self._in_text):
                    self._process(parser.feed(text))
                self._process(parser.tick())

    def _process(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.process_message(message)

    def _read(self) -> bytes:
        try:
            return os.read(self.fileno, 4096)
        except OSError:
            return b""

    @property
    def _in_text(self) -> bool:
        try:
            return isinstance(self._app.focused, Input)
        except ScreenStackError:
            return False

    def process_message(self, message: Message) -> None:
        """Turn ctrl+j into enter: until the terminal is in raw mode, it sends enter as a line feed."""
        if isinstance(message, events.Key) and message.key == "ctrl+j":
            message = events.Key("enter", "\r")
        super().process_message(message)


def driver_class(found: type[Driver]) -> type[Driver]:
    """TerminalDriver instead of Textual's own; a driver chosen with TEXTUAL_DRIVER stays."""
    return TerminalDriver if found is LinuxDriver else found
