"""The terminal goes away: five ways of it, with a run and without. Nothing may be left, and the run is saved."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from engine.paths import Folders
from engine.records import HUNG_UP
from engine.store.store import Store
from tests.reliability.sudden import check_stopped, steps_of
from tests.reliability.terminal import Terminal
from tests.reliability.tries import Outcome, folders_in
from tests.waiting import WITHIN_S, until

_MARK = "RESLAB_TRY"  # in the environment of all that a try starts
_CODES = "import sys; from tui.__main__ import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Opened:
    """An app on a controlling terminal. `seen` is what stands there, `close` takes it away and says what was wrong."""

    seen: Callable[[], bytes]
    close: Callable[[], list[str]]


def hung_up(count: int, folder: Path) -> Outcome:
    """Each way by turns, with a run and idle by turns."""
    outcome, skipped = Outcome(), 0
    for number in range(count):
        name, way = list(_WAYS.items())[number // 2 % len(_WAYS)]
        if name == "multiplexer killed" and shutil.which("tmux") is None:
            skipped += 1
            continue
        live = number % 2 == 0
        problems = _try(folder / str(number), way, live)
        outcome.add([f"{name}, {'in mid-run' if live else 'idle'}: {problem}" for problem in problems])
    if skipped:
        outcome.note = "no multiplexer was killed: tmux is not installed"
        outcome.tries += skipped
    return outcome


def _try(home: Path, way: Callable[[Path, list[str]], Opened], live: bool) -> list[str]:
    folders, problems = folders_in(home), []
    folders.home.mkdir(parents=True)
    run = ["train", "digits", "resnet20", "--epochs", "1000", "--dtype", "float32", "--tui"]
    opened = way(home, [sys.executable, "-c", _CODES, *(run if live else []), "--home", str(folders.home)])
    if not until(
        (lambda: steps_of(folders) > 0) if live else (lambda: b"What will run" in opened.seen()), every_s=0.05
    ):
        problems.append("it did not begin")
    begun = _marked(home)
    problems += opened.close()
    if not until(lambda: not _marked(home), every_s=0.05):
        problems.append(f"left: {', '.join(_kill(home))}")
    if len(begun) < 1:
        problems.append("no process was seen")
    return problems + (check_stopped(folders, HUNG_UP) if live else _check_idle(folders))


def _check_idle(folders: Folders) -> list[str]:
    with Store(folders.database) as store:
        return [f"run {record.run} was recorded" for record in store.runs()]


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, _MARK: str(home), "TERM": "xterm-256color", "RESLAB_TUNE": "0", "OMP_NUM_THREADS": "1"}


def _marked(home: Path) -> list[psutil.Process]:
    """Every process that the try has started, or that one of them has."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == str(home):
                found.append(process)
    return found


def _kill(home: Path) -> list[str]:
    names = []
    for process in _marked(home):
        with suppress(psutil.Error):
            names.append(process.name())
            process.kill()
    return names


def _multiplexer(home: Path, command: list[str]) -> Opened:
    """In tmux, whose server is killed."""
    tmux = ["tmux", "-f", "/dev/null", "-S", str(home / "socket")]

    def call(*words: str) -> bytes:
        return subprocess.run([*tmux, *words], env=_environment(home), capture_output=True, check=False).stdout

    def close() -> list[str]:
        call("kill-server")
        return []

    call("new-session", "-d", "-x", "120", "-y", "36", *command)
    return Opened(lambda: call("capture-pane", "-p"), close)


def _on_terminal(home: Path, command: list[str]) -> tuple[Terminal, subprocess.Popen[bytes]]:
    terminal = Terminal()
    process = subprocess.Popen(
        command, env=_environment(home), preexec_fn=terminal.take, pass_fds=(terminal.follower,),
        stdin=terminal.follower, stdout=terminal.follower, stderr=terminal.follower,
    )  # fmt: skip
    return terminal, process


def _window(home: Path, command: list[str]) -> Opened:
    """The app is the session's leader, as in a window that is opened for it."""
    terminal, process = _on_terminal(home, command)

    def close() -> list[str]:
        terminal.close()
        _reap(process)
        return []

    return Opened(lambda: terminal.seen, close)


def _ssh(home: Path, command: list[str]) -> Opened:
    """A shell leads the session; it hears of the hang-up first, and the app when the shell has ended."""
    return _window(home, ["/bin/sh", "-c", '"$@"; true', "sh", *command])


def _signals(*numbers: signal.Signals) -> Callable[[Path, list[str]], Opened]:
    """The terminal stays; it must be left as it was found."""

    def opened(home: Path, command: list[str]) -> Opened:
        terminal, process = _on_terminal(home, command)

        def close() -> list[str]:
            for number in numbers:
                process.send_signal(number)
            _reap(process)
            problems = terminal.problems()
            terminal.close()
            return problems

        return Opened(lambda: terminal.seen, close)

    return opened


def _reap(process: subprocess.Popen[bytes]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(WITHIN_S)


_WAYS: dict[str, Callable[[Path, list[str]], Opened]] = {
    "window closed": _window,
    "multiplexer killed": _multiplexer,
    "SSH's terminal closed": _ssh,
    "SIGHUP": _signals(signal.SIGHUP),
    "SIGHUP and SIGCONT": _signals(signal.SIGHUP, signal.SIGCONT),
}
