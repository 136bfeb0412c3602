"""The log file, for full reports of failures: tracebacks are never shown on screen. Loads no torch."""

from __future__ import annotations

import logging
import time
import traceback
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from engine.text import safe_text

_MAX_BYTES = 5_000_000  # then the file becomes *.old.log


def write_report(path: Path, error: BaseException, about: str) -> bool:
    """Append `error` with its traceback to the log at `path`; False if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _MAX_BYTES:
            path.replace(path.with_suffix(".old.log"))
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {about}\n")
            file.writelines(f"{safe_text(line)}\n" for line in "".join(traceback.format_exception(error)).split("\n"))
    except OSError:
        return False
    return True


class _Handler(logging.FileHandler):
    """A FileHandler that never raises, not even if the file cannot be opened."""

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Print nothing if the log cannot be written."""


class _Formatter(logging.Formatter):
    """Removes control characters but keeps line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(safe_text, super().format(record).split("\n")))


def log_to(path: Path) -> None:
    """Send this process's warnings to the log file instead of the screen; drop them if it cannot be written.

    Folder and file are created by the first message.
    """
    if any(isinstance(handler, _Handler) for handler in logging.getLogger().handlers):
        return
    logging.captureWarnings(True)
    handler = _Handler(path, encoding="utf-8", delay=True)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
