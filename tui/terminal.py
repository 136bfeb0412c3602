"""The app's side of its terminal: Textual's driver, for a terminal that may go away and for keys that come late.

Textual writes through a thread that ends at the first error, into a queue that nobody empties from then on: the event
loop waits for ever at its thirty-first write. Upon SIGCONT, which comes with a hang-up, it starts a second pair of
threads beside the first. And it reads the end of a terminal that is gone again and again. Here whatever is written to a
terminal that is gone is dropped, nothing is started on it, and the app hears of it once.
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

_LOOK_S = 1.0
_ESCAPE_S = 0.1  # how long the rest of a sequence may come after its escape
_ESCAPE = "\x1b[27u"  # the key, as a terminal says it that is asked to say it so that nothing can follow
# An escape and what begins no sequence, and does not end a terminal's answer: two keys.
_TWO_KEYS = re.compile(r"\x1b(?=[^\x1b\[O\]P_^X\\])")
_TWO_KEYS_IN_TEXT = re.compile(r"\x1b(?=[^\x1b\[O\]P_^X\\bf\x7f])")  # alt+b, alt+f, alt+backspace move and delete there


class Escapes:
    """Tells the escape key from the beginning of a sequence.

    Escape and q typed one after another are read together where the machine is busy. Taken for alt+q, which means
    nothing here, both are lost.
    """

    def __init__(self) -> None:
        self._held = ""

    def apart(self, text: str, in_text: bool) -> str:
        """What was read, "" where nothing came for a while, with the key written so that it is one; an escape at the
        end is held back for what comes next. `in_text`: a field has the focus.
        """
        if not text:
            held, self._held = self._held, ""
            return _ESCAPE if held else ""
        text = self._held + text
        self._held = "\x1b" if text.endswith("\x1b") else ""
        text = text.removesuffix("\x1b")
        return (_TWO_KEYS_IN_TEXT if in_text else _TWO_KEYS).sub(lambda _: _ESCAPE, text)


class SafeFile:
    """A terminal as a file to write to: once it is gone, what is written is dropped, and `lost` is called."""

    def __init__(self, file: IO[str], lost: Callable[[], None]) -> None:
        self._file = file
        self._lost = lost
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
            self._lost()


class TerminalDriver(LinuxDriver):
    """Posts TerminalLost once when the terminal is gone, whoever notices it first: a write, a read, or a look now and
    then.
    """

    def __init__(
        self, app: App[Any], *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        assert sys.__stderr__ is not None
        self._screen = SafeFile(sys.__stderr__, self.lose)
        self._file = self._screen  # type: ignore[assignment]  # the writing thread's: it must never end by an error
        self._told = False
        self._keys = Escapes()
        # In the loop, not between two of its instructions: it may be writing.
        self._loop.add_signal_handler(signal.SIGCONT, self._continued)
        self._look()

    @property
    def lost(self) -> bool:
        return self._told

    def lose(self) -> None:
        """The terminal is gone; any thread may say so."""
        if not self._told:
            self._told = True
            self._screen.gone = True
            self.exit_event.set()  # whoever reads keys ends
            self._app.post_message(TerminalLost())

    def look(self) -> bool:
        """Whether the terminal is still there."""
        if not self._told:
            try:
                termios.tcgetattr(self.fileno)
            except termios.error:
                self.lose()
        return not self._told

    def _look(self) -> None:
        if self.look():
            self._loop.call_later(_LOOK_S, self._look)

    def _continued(self) -> None:
        """After a stop: take the terminal again. A stop that nobody announced has left the threads at work."""
        if not (self._auto_restart and self.look()):
            return
        if not self._must_signal_resume:
            self.suspend_application_mode()
        self.resume_application_mode()
        self._app.call_later(self._app.refresh, layout=True)

    def start_application_mode(self) -> None:
        if self.look():
            super().start_application_mode()  # type: ignore[no-untyped-call]

    def run_input_thread(self) -> None:
        """Read keys until the app is left or the terminal is gone; its end reads as an error or as nothing."""
        parser, decode = XTermParser(self._debug), getincrementaldecoder("utf-8")("replace").decode
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                text = ""
                if selector.select(_ESCAPE_S):
                    data = self._read()
                    if not data:
                        self.lose()
                        return
                    text = decode(data)
                if text := self._keys.apart(text, self._in_text):
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
        """Before the terminal is the app's own, it turns enter into a line feed."""
        if isinstance(message, events.Key) and message.key == "ctrl+j":
            message = events.Key("enter", "\r")
        super().process_message(message)


def driver_class(found: type[Driver]) -> type[Driver]:
    """Ours in place of Textual's own; what the person chose by TEXTUAL_DRIVER stays."""
    return TerminalDriver if found is LinuxDriver else found
