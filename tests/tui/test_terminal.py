"""The app on a terminal of its own, as a process: the terminal goes away, keys are typed before anything stands."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual._xterm_parser import XTermParser
from textual.events import Key

from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import events_of
from tests.reliability.terminal import Terminal
from tests.waiting import exit_code, until
from tui.terminal import EscapeFilter, SafeFile

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def start(terminal: Terminal, tmp_path: Path) -> Iterator[Start]:
    """Start a process on the terminal; what is left of it in the end is killed."""
    begun: list[subprocess.Popen[bytes]] = []

    def run(*command: str, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *command], env={**os.environ, "TERM": "xterm-256color", **environment},
            preexec_fn=terminal.take, pass_fds=(terminal.follower,),
            stdin=terminal.follower, stdout=terminal.follower, stderr=terminal.follower,
        )  # fmt: skip
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.wait()


def app_in(home: Path, *more: str) -> tuple[str, ...]:
    return ("-m", "tests.tui.terminal_child", str(home), *more)


def record_run(home: Path) -> None:
    spec = RunSpec("digits", "resnet18", epochs=1)
    with Store(Folders(home, home, home).database) as store:
        for event in events_of(spec, store.create_run(spec)):
            store.record(event)


def left(home: Path) -> Any:
    return json.loads((home / "left.json").read_text())


def closed(terminal: Terminal, process: subprocess.Popen[bytes]) -> None:
    terminal.close()


def hung_up(terminal: Terminal, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGHUP)


def continued(terminal: Terminal, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("end", [closed, hung_up, continued])
def test_a_live_run_ends_with_its_terminal_and_the_process_too(
    end: Callable[[Terminal, subprocess.Popen[bytes]], None], terminal: Terminal, start: Start, tmp_path: Path
) -> None:
    process = start(*app_in(tmp_path, "live"))
    assert until(lambda: b"epoch 2/10" in terminal.seen, lives=lambda: process.poll() is None)
    end(terminal, process)
    assert exit_code(process) == 0
    assert (tmp_path / "ended").read_text() == "stopped: cut off: the terminal went away"
    if end is not closed:
        assert terminal.problems() == []


@pytest.mark.parametrize(
    ("keys", "mode", "filters", "epochs"),
    [
        (b"\t\t\r\x157\rq", "setup", [], 7),  # the first edit of the recipe
        (b"3jq", "results", [""], 10),  # nothing goes into a filter that is not shown
        (b"3/dig\rq", "results", ["dig"], 10),
        (b"?\x1bu\x1b3\x1bq", "results", [""], 10),  # escape and the key after it are read together
    ],
)
def test_what_is_typed_before_the_app_stands_goes_where_it_would_have_gone(
    keys: bytes, mode: str, filters: list[str], epochs: int, terminal: Terminal, start: Start, tmp_path: Path
) -> None:
    record_run(tmp_path)
    terminal.write(keys)
    process = start(*app_in(tmp_path))
    assert exit_code(process) == 0
    found = left(tmp_path)
    assert (found["mode"], found["filters"], found["values"]["epochs"]) == (mode, filters, epochs)


@pytest.mark.parametrize("command", [(), ("train", "digits", "resnet18", "--tui")])
def test_on_a_terminal_that_cannot_move_its_cursor_the_app_says_so(
    command: tuple[str, ...], terminal: Terminal, start: Start, tmp_path: Path
) -> None:
    process = start("-m", "tui", *command, TERM="dumb", RESLAB_HOME=str(tmp_path))
    assert exit_code(process) == 2
    assert until(lambda: b"\n" in terminal.seen)
    said = "reslab: the app does not work with TERM=dumb; use reslab train DATASET MODEL"
    assert terminal.seen.decode() == f"{said}\r\n"


class Broken(io.StringIO):
    def flush(self) -> None:
        raise OSError(5, "Input/output error")


def test_what_is_written_to_a_terminal_that_is_gone_is_dropped_and_said_once() -> None:
    said: list[str] = []
    file = SafeFile(Broken(), lambda: said.append("gone"))
    for _ in range(3):
        assert file.write("text") == 4
        file.flush()
    assert (file.gone, said) == (True, ["gone"])


@pytest.mark.parametrize(
    ("reads", "keys"),
    [
        (["\x1bq"], ["escape", "q"]),
        (["\x1b", "q"], ["escape", "q"]),
        (["\x1b", ""], ["escape"]),
        (["\x1b\x1b", "", ""], ["escape", "escape"]),
        (["\x1b3\x1bqy"], ["escape", "3", "escape", "q", "y"]),
        (["\x1b\r"], ["escape", "enter"]),
        (["\x1b[A", "\x1b", "[B", "\x1bOP"], ["up", "down", "f1"]),
        (["\x1b[?2026;2$y", "q"], ["q"]),
    ],
)
def test_an_escape_and_a_key_that_are_read_together_are_two_keys(reads: list[str], keys: list[str]) -> None:
    parser, escapes, found = XTermParser(), EscapeFilter(), []
    for text in reads:
        if apart := escapes.feed(text, in_text=False):
            found += [message.key for message in parser.feed(apart) if isinstance(message, Key)]
    found += [message.key for message in parser.feed("\x1b[27u") if isinstance(message, Key)][:-1]
    assert found == keys


def test_in_a_field_alt_moves_by_words() -> None:
    parser, escapes = XTermParser(), EscapeFilter()
    keys = [message.key for message in parser.feed(escapes.feed("\x1bb", in_text=True)) if isinstance(message, Key)]
    assert keys == ["ctrl+left"]
