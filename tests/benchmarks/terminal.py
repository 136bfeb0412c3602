"""Runs a command in a pseudo-terminal of a given size, and tells when a text was first written to it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence


def as_installed() -> dict[str, str]:
    """The environment less what has a program compile its modules anew at every start, which no installed one does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run_in_terminal(
    command: Sequence[str], size: tuple[int, int], until: bytes | None, env: dict[str, str] | None = None
) -> float:
    """Seconds from start until `until` was written (the process is then killed), or until the process ended by itself.

    `size` is columns and rows.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        env={**as_installed(), "TERM": "xterm-256color", "COLORTERM": "truecolor", **(env or {})},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    try:
        while True:
            try:
                data = os.read(leader, 65536)
            except OSError:  # the other end is closed: the process has ended
                break
            if not data:
                break
            seen = (seen + data)[-200_000:] if until else b""
            if until and until in seen:
                break
        return time.perf_counter() - began
    finally:
        if until is not None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(leader)
