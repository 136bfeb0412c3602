"""What the processes of a try do. Imported by the server that they are forked from: all of torch and of reslab."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import shutil
import signal
import sys
import termios
from contextlib import suppress
from pathlib import Path

import sklearn.metrics
from textual.events import Event, Key

import engine.launch.in_process
import engine.training.saving
import tui.app
from engine.cli import main as command_line
from engine.cli.training import train_all
from engine.errors import ReslabError
from engine.events import CheckpointFailed, RunEnded
from engine.export.plain_files import export_run
from engine.lab import Lab
from engine.launch.opening import Opening
from engine.spec import RunSpec
from engine.store.store import Store
from tests.reliability.tries import ONE_EPOCH, SPEC, folders_in, quiet_process
from tui.__main__ import open_app

_LOADED = (sklearn.metrics, engine.launch.in_process, tui.app)


def train(folder: Path, always_saving: bool = False) -> None:
    quiet_process()
    if always_saving:
        engine.training.saving.EARLY = 0.0  # a checkpoint is due as soon as the one before is written
    list(Lab(folders_in(folder)).train(SPEC).events())


def train_spec(folder: Path, spec: RunSpec) -> None:
    quiet_process()
    list(Lab(folders_in(folder)).train(spec).events())


def resume_with(folder: Path) -> None:
    quiet_process()
    list(Lab(folders_in(folder)).resume(1).events())


def headless(folder: Path) -> None:
    """As `reslab train --json`; exits with its code."""
    quiet_process()
    sys.exit(train_all([SPEC.replace(epochs=1000)], folders_in(folder), as_json=True))


def train_failing(folder: Path, at: int, error: int, counted: Path) -> None:
    """Writing call number `at` under `folder` fails with `error` (0: half-way); exits with 3 where a sentence says so.

    How many there were is written to `counted`.
    """
    quiet_process()
    engine.training.saving.EARLY = 0.0
    library = ctypes.CDLL(None)
    library.fault_counted.restype = ctypes.c_long
    library.fault_arm(str(folder).encode(), ctypes.c_long(at), ctypes.c_int(error))
    code = 0
    try:
        list(Lab(folders_in(folder)).train(ONE_EPOCH).events())
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
    list(Lab(folders_in(folder)).train(SPEC).events())


def train_on_a_full_disk(folder: Path, spec: RunSpec, disk_bytes: int, left: int) -> None:
    """On a file system of its own, nearly full, then with room again; what was not said well is written to `said`.

    In the end everything is copied to `folder`, for nobody else sees that file system.
    """
    quiet_process()
    disk, ballast = folder / "disk", folder / "disk" / "ballast"
    disk.mkdir()
    _mount(disk, disk_bytes)
    ballast.write_bytes(bytes(disk_bytes - left - 16_384))
    lab, said = Lab(folders_in(disk)), []
    for room in (False, True):
        if room:
            ballast.unlink()
        try:
            with Store(lab.folders.database) as store:
                store.settle_lost_runs()
                statuses = [record.status for record in store.runs()]
            if statuses != ["completed"]:
                for event in lab.resume(1).events() if statuses else lab.train(spec).events():
                    if isinstance(event, CheckpointFailed) or (isinstance(event, RunEnded) and event.error):
                        (folder / "refused").touch()
            with Store(lab.folders.database) as store:
                export_run(store, 1, lab.folders.run_folder(1), disk / "exports")
                store.enqueue([spec])
        except ReslabError as error:
            said += [f"with room again: {error}"] if room else []
            (folder / "refused").touch()
        except Exception as error:
            said.append(f"{type(error).__name__} in place of a sentence: {error}")
    shutil.copytree(disk / "home", folder / "home")
    (folder / "said").write_text("; ".join(said))


def _mount(folder: Path, num_bytes: int) -> None:
    """A file system of so many bytes at `folder`, for this process alone."""
    library, private = ctypes.CDLL(None, use_errno=True), 1 << 18 | 1 << 14  # MS_PRIVATE, MS_REC
    done = library.unshare(0x20000) or library.mount(b"none", b"/", None, ctypes.c_ulong(private), None)
    size = f"size={num_bytes}".encode()
    if done or library.mount(b"none", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), size):
        raise OSError(ctypes.get_errno(), "cannot mount a file system")


def app(folder: Path, terminal: str) -> None:
    """The app on a pseudo-terminal of its own, with a run started; exits with its code."""
    quiet_process()
    _take_terminal(terminal)
    sys.exit(open_app(Opening(folders_in(folder), (SPEC.replace(epochs=1000),))))


def commands(folder: Path, terminal: str, command_lines: list[list[str]]) -> None:
    """These command lines, one after another, on a pseudo-terminal."""
    quiet_process()
    _take_terminal(terminal)
    for words in command_lines:
        with suppress(SystemExit):
            command_line([*words, "--home", str(folders_in(folder).home)], open_app)
    sys.stdout.flush()


def app_with(folder: Path, terminal: str, specs: list[RunSpec]) -> None:
    """Every key that the app hears, and who hears it, is written to `heard`."""
    quiet_process()
    _write_keys_heard(folder / "heard")
    _take_terminal(terminal)
    sys.exit(open_app(Opening(folders_in(folder), tuple(specs))))


def app_only_reading(folder: Path, terminal: str) -> None:
    """The app of somebody who may read the home folder and not write to it."""
    _give_up_writing()
    if os.access(folders_in(folder).database, os.W_OK):
        sys.exit(4)
    app_with(folder, terminal, [])


def _write_keys_heard(file: Path) -> None:
    hear = tui.app.ReslabApp.on_event

    async def on_event(self: tui.app.ReslabApp, event: Event) -> None:
        if isinstance(event, Key) and not event.is_forwarded:
            with file.open("a", encoding="utf-8") as heard:
                heard.write(f"{event.key} on {type(self.screen).__name__}\n")
        await hear(self, event)

    tui.app.ReslabApp.on_event = on_event  # type: ignore[method-assign]


def _give_up_writing() -> None:
    """To root the rights of files mean nothing, as long as it has CAP_DAC_OVERRIDE."""
    if os.geteuid() != 0:
        return
    library = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    failed = library.capget(header, sets)
    sets[0] &= ~(1 << 1)  # effective
    sets[1] &= ~(1 << 1)  # permitted
    if failed or library.capset(header, sets):
        raise OSError(ctypes.get_errno(), "cannot give up a right")


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
