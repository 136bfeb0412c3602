"""Standard output and standard error, wrapped so that printing never ends in a traceback.

Letters that the terminal's encoding lacks are replaced with plainer ones. A reader may close its pipe, a disk may be
full, a terminal may close: standard output then raises one `OutputError` and discards the rest; standard error, where
nothing could be reported, discards silently.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

from engine.errors import OutputError
from engine.events import plain
from engine.text import escaped

_PLAIN_LETTERS = "reslab.plain"
_PLAIN = {
    "×": "x", "→": ">", "…": "~", "–": "-", "−": "-", "·": "-", "─": "-", "━": "-", "°": "deg", "²": "2", "√": "sqrt",
    "✓": "+", "✗": "!", "●": "*", "␡": "^?", "\N{REPLACEMENT CHARACTER}": "?",
}  # fmt: skip


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: the nearest plain letters, the control pictures as ^A, any other letter as \\u1234."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain_letter, error.object[error.start : error.end])), error.end


def _plain_letter(letter: str) -> str:
    if 0x2400 <= ord(letter) < 0x2420:
        return f"^{chr(ord(letter) - 0x2400 + 0x40)}"
    return _PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(_PLAIN_LETTERS, _plainer)


class Output:
    """A text stream that is written until a write fails. `lost` is the error."""

    _all: list[Output] = []  # noqa: RUF012  # those of the current command

    def __init__(self, stream: TextIO, name: str, raises: bool) -> None:
        self.lost: OSError | None = None
        self._stream, self._name, self._raises = stream, name, raises
        self._was_terminal = not stream.closed and stream.isatty()
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAIN_LETTERS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Raises OutputError at the first write that fails."""
        if self.lost is None:
            with self._noticed():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Raises OutputError at the first write that fails."""
        if self.lost is None:
            with self._noticed():
                self._stream.flush()

    def finish(self) -> None:
        """Write the rest. Raises OutputError if any output was lost."""
        with suppress(OutputError):
            self.flush()
        self._raise_if_lost()

    @property
    def terminal_is_gone(self) -> bool:
        return self._was_terminal and self.lost is not None

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error
            self._discard_buffer()
            self._raise_if_lost()

    def _raise_if_lost(self) -> None:
        if self.lost is not None and self._raises:
            reason = self.lost.strerror or str(self.lost)
            text = f"cannot write to {self._name} ({reason}); redirect it to a writable file with enough space"
            raise OutputError(text, self.lost.errno == errno.EPIPE)

    def _discard_buffer(self) -> None:
        """Send buffered text to /dev/null, else the interpreter would report an error at exit."""
        with suppress(OSError, ValueError):  # ValueError: no file descriptor
            number = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


@contextmanager
def standard_streams() -> Iterator[Output]:
    """Wrap both streams, closed ones too, until the end of the block; yields standard output."""
    _fill_closed()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out = Output(sys.stdout or nowhere, "standard output", raises=True)
        err = Output(sys.stderr or nowhere, "standard error", raises=False)
        before, Output._all = Output._all, [out, err]
        try:
            with redirect_stdout(out), redirect_stderr(err):
                yield out
        finally:
            err.flush()
            Output._all = before


def _fill_closed() -> None:
    """Occupy closed standard descriptors, so that no file gets one of them: libraries may write there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor


def terminal_is_gone() -> bool:
    """Whether a write to this command's terminal has failed."""
    return any(output.terminal_is_gone for output in Output._all)


def printable(text: str) -> str:
    """`text` in letters that standard output can show."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text if text.isascii() else text.encode(encoding, _PLAIN_LETTERS).decode(encoding)


def json_line(value: Any) -> str:
    """JSON on one line; with ASCII escapes if standard output cannot show every letter."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    everything = codecs.lookup(encoding).name.startswith("utf")
    return escaped(json.dumps(value, ensure_ascii=not everything))


def print_json(value: Any) -> None:
    """A value of plain types, dataclasses among them, as one line of JSON."""
    print(json_line(plain(value)))
