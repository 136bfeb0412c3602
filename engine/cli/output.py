"""Standard output and standard error, so that nothing that is printed can end in a traceback.

Letters that a terminal's encoding lacks are written in a plainer form. Whoever reads a pipe may close it, a disk may be
full, a terminal may go away: standard output says so once, with an `OutputError`, and takes the rest in silence;
standard error, where nobody could be told of it, takes it in silence from the start.
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
    """A text stream that is written to until it is lost. `lost` says why it was."""

    _all: list[Output] = []  # noqa: RUF012  # those of the command that runs now

    def __init__(self, stream: TextIO, name: str, says_so: bool) -> None:
        self.lost: OSError | None = None
        self._stream, self._name, self._says_so = stream, name, says_so
        self._was_terminal = not stream.closed and stream.isatty()
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAIN_LETTERS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Raises OutputError the first time that it cannot be written."""
        if self.lost is None:
            with self._noticed():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Raises OutputError the first time that it cannot be written."""
        if self.lost is None:
            with self._noticed():
                self._stream.flush()

    def finish(self) -> None:
        """Write the rest. Raises OutputError where anything of all that was written did not arrive."""
        with suppress(OutputError):
            self.flush()
        self._say()

    @property
    def terminal_is_gone(self) -> bool:
        return self._was_terminal and self.lost is not None

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error
            self._let_go()
            self._say()

    def _say(self) -> None:
        if self.lost is not None and self._says_so:
            reason = self.lost.strerror or str(self.lost)
            said = f"cannot write to {self._name} ({reason}); send it to a place with room that can be written"
            raise OutputError(said, self.lost.errno == errno.EPIPE)

    def _let_go(self) -> None:
        """What the stream still holds goes nowhere, else the interpreter would complain when it ends."""
        with suppress(OSError, ValueError):  # ValueError: it has no number
            number = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


@contextmanager
def standard_streams() -> Iterator[Output]:
    """Both streams as `Output` until the end of the block, closed ones too; yields standard output."""
    _fill_closed()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out = Output(sys.stdout or nowhere, "standard output", says_so=True)
        err = Output(sys.stderr or nowhere, "standard error", says_so=False)
        before, Output._all = Output._all, [out, err]
        try:
            with redirect_stdout(out), redirect_stderr(err):
                yield out
        finally:
            err.flush()
            Output._all = before


def _fill_closed() -> None:
    """A file must not be opened under the number of a standard stream: a library may write to that."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def terminal_is_gone() -> bool:
    """Whether the terminal of this command went away, as far as it was written to."""
    return any(output.terminal_is_gone for output in Output._all)


def printable(text: str) -> str:
    """`text` in the letters that standard output can show."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text if text.isascii() else text.encode(encoding, _PLAIN_LETTERS).decode(encoding)


def json_line(value: Any) -> str:
    """JSON on one line; in ASCII, which JSON has escapes for, where standard output cannot show every letter."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    everything = codecs.lookup(encoding).name.startswith("utf")
    return escaped(json.dumps(value, ensure_ascii=not everything))


def print_json(value: Any) -> None:
    """A value of plain types, dataclasses among them, as one line of JSON."""
    print(json_line(plain(value)))
