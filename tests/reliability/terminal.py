"""A pseudo-terminal: what is written to it, keys, and whether it is left as it was found."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import threading
import time
from contextlib import suppress

from tests.waiting import until

_KEPT = 4_000_000  # bytes


class Terminal:
    """A pseudo-terminal of 120×36 cells; a thread reads what is written to it."""

    def __init__(self) -> None:
        self._leader, self._follower = pty.openpty()
        fcntl.ioctl(self._follower, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        self.name = os.ttyname(self._follower)
        self._before = termios.tcgetattr(self._follower)
        self.seen = b""
        self._closing, self._close = os.pipe()
        self._closed = False
        self._read_at = 0.0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Never inside a read that waits: it would keep the terminal open after its end was closed."""
        with suppress(OSError):  # nobody has it open any more
            while self._closing not in (ready := select.select([self._leader, self._closing], [], [])[0]):
                if ready and (data := os.read(self._leader, 65536)):
                    self._read_at = time.monotonic()
                    self.seen = (self.seen + data)[-_KEPT:]

    def write(self, keys: bytes) -> None:
        os.write(self._leader, keys)

    def type(self, keys: bytes, quiet_s: float = 0.1, within_s: float = 10) -> None:
        """Send keys, and wait until what comes of them stands still."""
        self.write(keys)
        self._read_at = time.monotonic()
        until(lambda: time.monotonic() - self._read_at > quiet_s, within_s)

    def problems(self) -> list[str]:
        """What of the terminal is not as it was."""
        found = []
        if termios.tcgetattr(self._follower) != self._before:
            found.append("the terminal's modes were not put back")
        until(lambda: self.seen.rfind(b"\x1b[?1049l") > self.seen.rfind(b"\x1b[?1049h"), 1)
        for what, on, off in (
            ("the screen", b"\x1b[?1049l", b"\x1b[?1049h"),
            ("the cursor", b"\x1b[?25h", b"\x1b[?25l"),
        ):
            if self.seen.rfind(on) < self.seen.rfind(off):
                found.append(f"{what} was not put back")
        if b"Traceback" in self.seen:
            found.append("a traceback reached the screen")
        return found

    def close(self) -> None:
        """As a window that is closed: who has it as its controlling terminal is told by the system."""
        if not self._closed:
            self._closed = True
            os.close(self._close)
            self._reader.join()
            for handle in (self._follower, self._leader, self._closing):
                os.close(handle)

    def take(self) -> None:
        """For a process that has just begun: a session of its own, with this as its controlling terminal."""
        os.setsid()
        fcntl.ioctl(self._follower, termios.TIOCSCTTY, 0)

    @property
    def follower(self) -> int:
        return self._follower
