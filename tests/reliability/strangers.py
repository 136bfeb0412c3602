"""Names, errors and files that somebody else made, with every control character there is in them.

A mark follows each such character. Where the character itself, followed by its mark, is written to a terminal, it came
from the data: nothing else writes the mark.
"""

from __future__ import annotations

import json
import os
import sqlite3
import unicodedata
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.records import LOST
from engine.spec import RunSpec
from engine.store.seals import write_seal
from engine.store.store import Store
from tests.fakes import events_of
from tests.reliability import children
from tests.reliability.terminal import Terminal
from tests.reliability.tries import Outcome, finish, folders_in, start
from tests.waiting import until

_MARK = "zq"
_UNSAFE = [char for char in map(chr, range(0x110000)) if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")]
_UNWRITTEN = {"\n"}  # a command ends its own lines with it
_SEQUENCES = ("\x1b]0;", "\x1b]52;c;", "\x1b[2J", "\x1bP", "\x9b31m", "\x90", "[bold]", "[@click=app.quit]", "[/]")
_KEYS = (
    *(b"n", b"1", b"\t", b"\t", b"j", b"?", b"\x1b", b"u", b"\x1b", b"4", b"3"),
    *(b"s", b"j", b"\r", *(b"l",) * 8, b"e", b"\x1b", b"\x1b"),  # an opened run and its tabs
    *(b"k", b" ", b"j", b" ", b"c", b"v", b"o", b"i", b"\x1b"),
    *(b"d", b"\x1b", b"R", b"\x1b", b"\x10", b"\x1b", b"2"),
)
_LIVE_KEYS = (b"g", b"\x1b", b"F", b"\x1b", b"s", b"3", b"\r", *(b"l",) * 8, b"\x1b", b"1")

_PAUSES = {b"": 0.5, b"\r": 0.5}  # s

_texts = st.lists(
    st.one_of(st.sampled_from(_UNSAFE), st.sampled_from(_SEQUENCES), st.characters(exclude_categories=["Cs"])),
    min_size=1, max_size=8,
).map("".join)  # fmt: skip


def strangers(count: int, folder: Path) -> Outcome:
    """A record and a folder of images made of such texts, through every screen and every command."""
    outcome, written = Outcome(), 0

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(_texts)
    def each(text: str) -> None:
        nonlocal written
        if outcome.tries == count:
            return
        marked = "".join(char + _MARK if char in _UNSAFE else char for char in text) + _MARK
        problems: list[str] = []
        seen = _shown(folder / str(outcome.tries), marked, problems)
        written += seen.count(_MARK.encode())
        raw = {char for char in _UNSAFE if char not in _UNWRITTEN and (char + _MARK).encode() in seen}
        problems += [f"U+{ord(char):04X} reached the terminal" for char in sorted(raw)]
        if seen.count(_MARK.encode()) < 20:
            problems.append("it was not even shown")
        outcome.add([f"{text!r}: {problem}" for problem in problems])

    each()
    outcome.note = f"such texts were written {written:,} times, none of their control characters was"
    return outcome


def _shown(home: Path, text: str, problems: list[str]) -> bytes:
    """All that reaches a terminal."""
    images = _folder_of_images(home / "images", text)
    _record(home, text, images)
    command_lines = [
        *(["runs"], ["runs", "--json"], ["show", "1"], ["show", "1", "--json"], ["show", "2"], ["compare", "1", "2"]),
        *(["compare", "1", "2", "--json"], ["datasets"], ["resume", "3"], ["resume", "1"], ["predictions", "1"]),
        *(["train", f"folder:{images}", text], ["train", f"folder:{text}".replace("\0", ""), "resnet20"]),
        *([text], ["predict", "1", text.replace("\0", "")], ["train", "--spec", text.replace("\0", "")]),
        ["train", f"folder:{images}", "resnet20", "--epochs", "1", "--image-size", "8"],
        ["train", f"folder:{images}", "resnet20", "--epochs", "1", "--image-size", "8", "--json"],
    ]
    terminal = Terminal()
    finish(start(children.commands, home, terminal.name, command_lines))
    spec = RunSpec(f"folder:{images}", "resnet20", epochs=1, image_size=8, dtype="float32")
    for specs, keys in (([], _KEYS), ([spec], _LIVE_KEYS)):
        process = start(children.app_with, home, terminal.name, specs)
        before = len(terminal.seen)
        until(lambda before=before: b"Set up" in terminal.seen[before:])  # type: ignore[misc]
        for key in (b"", *keys):
            terminal.type(key, quiet_s=_PAUSES.get(key, 0.06))
        for key in (b"\x1b", b"\x1b", b"q", b"y"):  # whatever a late key has opened, it closes
            terminal.type(key, quiet_s=0.3)
        code = finish(process)
        if code != 0:
            heard = (home / "heard").read_text(encoding="utf-8").splitlines()[-4:]
            problems.append(f"the app did not leave (exit code {code}); the last keys it heard: {', '.join(heard)}")
    seen = terminal.seen
    terminal.close()
    return seen


def _folder_of_images(folder: Path, text: str) -> Path:
    """Two classes and a file that is no image, all of that name."""
    name = _file_name(text)
    draws = np.random.default_rng(0)
    for number, class_folder in enumerate((f"a{name}", f"b{name}")):
        (folder / class_folder).mkdir(parents=True)
        for image in range(12):
            pixels = draws.integers(0, 128, (9, 9, 3), np.uint8) + 127 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / class_folder / f"{image}{name}.png")
        (folder / class_folder / f"{name}.jpg").write_bytes(b"no image")
    return folder


def _file_name(text: str) -> str:
    """As much of it as a file may be called, and a byte that is no text."""
    return text.replace("/", " ").replace("\0", " ").encode()[:200].decode(errors="ignore") + os.fsdecode(b"\xff")


def _record(home: Path, text: str, images: Path) -> None:
    """Three runs: two that ended, and one that was cut off."""
    folders = folders_in(home)
    text = text.replace("\0", "")  # to SQLite's own functions a text ends there
    with Store(folders.database) as store:
        for seed in (0, 1, 2):
            spec = RunSpec("digits", "resnet20", epochs=2, seed=seed)
            run = store.create_run(spec)
            for event in events_of(spec, run, (f"a{text}", f"b{text}")):
                store.record(event)
        store.enqueue([RunSpec(f"folder:{images}", "resnet20", optimizer="adamw")])
        with sqlite3.connect(folders.database) as db:
            for run, spec_text, started in db.execute("SELECT run, spec, started FROM runs").fetchall():
                spec_now, started_now = json.loads(spec_text), json.loads(started)
                spec_now["weights"] = started_now["spec"]["weights"] = text
                started_now["resolved"]["device_name"] = started_now["resolved"]["device_reason"] = text
                started_now["changes"] = [text]
                changed = (f"folder:{text}", text, text, json.dumps(spec_now), json.dumps(started_now), run)
                db.execute(
                    "UPDATE runs SET dataset = ?, model = ?, error = ?, spec = ?, started = ? WHERE run = ?", changed
                )
            db.execute("UPDATE runs SET status = 'failed', error = ? WHERE run = 3", (f"{LOST} {text}",))
        for run in (1, 2, 3):
            with store._transaction():
                write_seal(store._db, run)
    folders.run_folder(1).mkdir(parents=True)
    name = text.replace("\n", " ").replace("\r", " ").replace(",", " ").replace('"', " ")
    (folders.run_folder(1) / "manifest.csv").write_text(
        f"file,sha256,class_name,split,problem\n{name},0,{name},unusable,{name}\n", encoding="utf-8"
    )
