"""What the processes of a try do. Imported by the server that they are forked from: all of torch and of reslab."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import sys
import termios
from contextlib import suppress
from pathlib import Path

import sklearn.metrics

import engine.runs
import engine.training.saving
import tui.app
from engine.cli import main as command_line
from engine.cli.training import train_command
from engine.control import RunControl
from engine.errors import ReslabError
from engine.runs import Lab, resume, run
from engine.spec import RunSpec
from tests.reliability.tries import ONE_EPOCH, SPEC, places_in, quiet_process
from tui.__main__ import open_app

_LOADED = (sklearn.metrics, engine.runs, tui.app)


def train(folder: Path, always_saving: bool = False) -> None:
    quiet_process()
    if always_saving:
        engine.training.saving._EARLY = 0.0  # a checkpoint is due as soon as the one before is written
    list(run(SPEC, Lab(places_in(folder)), RunControl()))


def train_spec(folder: Path, spec: RunSpec) -> None:
    quiet_process()
    list(run(spec, Lab(places_in(folder)), RunControl()))


def go_on(folder: Path) -> None:
    quiet_process()
    list(resume(1, Lab(places_in(folder)), RunControl()))


def headless(folder: Path) -> None:
    """As `reslab train --json`; exits with its code."""
    quiet_process()
    sys.exit(train_command(SPEC.replace(epochs=1000), places_in(folder), as_json=True))


def train_failing(folder: Path, at: int, error: int, counted: Path) -> None:
    """Writing call number `at` under `folder` fails with `error` (0: half-way); exits with 3 where a sentence says so.

    How many there were is written to `counted`.
    """
    quiet_process()
    engine.training.saving._EARLY = 0.0
    library = ctypes.CDLL(None)
    library.fault_counted.restype = ctypes.c_long
    library.fault_arm(str(folder).encode(), ctypes.c_long(at), ctypes.c_int(error))
    code = 0
    try:
        list(run(ONE_EPOCH, Lab(places_in(folder)), RunControl()))
    except ReslabError:
        code = 3
    counted.write_text(str(library.fault_counted()))
    sys.exit(code)


def train_one_epoch(folder: Path) -> None:
    train_spec(folder, ONE_EPOCH)


def train_with_small_files(folder: Path, num_bytes: int) -> None:
    """No file may grow beyond so many bytes: to the process a disk that is full."""
    quiet_process()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    list(run(SPEC, Lab(places_in(folder)), RunControl()))


def app(folder: Path, terminal: str) -> None:
    """The app on a pseudo-terminal of its own, with a run started; exits with its code."""
    quiet_process()
    _take_terminal(terminal)
    sys.exit(open_app(places_in(folder), [SPEC.replace(epochs=1000)], False))


def commands(folder: Path, terminal: str, command_lines: list[list[str]]) -> None:
    """These command lines, one after another, on a pseudo-terminal."""
    quiet_process()
    _take_terminal(terminal)
    for words in command_lines:
        with suppress(SystemExit):
            command_line([*words, "--home", str(places_in(folder).home)], open_app)
    sys.stdout.flush()


def app_with(folder: Path, terminal: str, specs: list[RunSpec]) -> None:
    quiet_process()
    _take_terminal(terminal)
    sys.exit(open_app(places_in(folder), specs, False))


def _take_terminal(terminal: str) -> None:
    """Make it this process's own, and its input and output."""
    os.setsid()
    handle = os.open(terminal, os.O_RDWR)
    fcntl.ioctl(handle, termios.TIOCSCTTY, 0)
    for stream in (0, 1, 2):
        os.dup2(handle, stream)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        number = ("stdin", "stdout", "stderr").index(name)
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
        setattr(sys, f"__{name}__", getattr(sys, name))
    os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
