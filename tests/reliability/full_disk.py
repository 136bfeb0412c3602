"""No room on the disk: by a bound on the size of a file, and on a real file system with too few bytes left."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from engine.errors import StoreError
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.reliability import children
from tests.reliability.tries import SPEC, Outcome, Story, check_resumed, finish, folders_in, start, story_of

_DISK_BYTES = 8 * 2**20
_ALL_FILES = 5 * 2**20  # a run, its two checkpoints, its export and its cache take a little less


def full_disk(count: int, folder: Path) -> Outcome:
    """By turns each way; then there is room again, and the run goes on or is begun anew."""
    draws, outcome, on_a_disk, refused = random.Random(4), Outcome(), 0, 0
    by_size = _Bounded(folder / "digits")
    on_disk = _Disk(folder / "images") if _can_mount() else None
    for number in range(count):
        home = folder / str(number)
        if number % 2 and on_disk is not None:
            problems = on_disk(home, round(_ALL_FILES * draws.random() ** 2))
            on_a_disk += 1
            refused += (home / "refused").exists()
        else:
            problems = by_size(home, (1_000_000, 120_000, 90_000, 20_000)[number // 2 % 4] + draws.randrange(10_000))
        outcome.add(problems)
    bound = "the others by a bound on the size of a file" + ("" if on_disk else "; mounting is not allowed here")
    outcome.note = (
        f"{on_a_disk} on a file system of 8 MiB, of which {refused} said first that there was no room; {bound}"
    )
    return outcome


class _Bounded:
    def __init__(self, folder: Path) -> None:
        _train(folder, SPEC)
        self._untroubled = story_of(folders_in(folder))

    def __call__(self, home: Path, num_bytes: int) -> list[str]:
        problems = []
        if finish(start(children.train_with_small_files, home, num_bytes)) is None:
            problems.append("it hung")
        folders = folders_in(home)
        if folders.database.exists():
            problems += after_a_full_disk(home, folders, self._untroubled)
        return [f"files of at most {num_bytes:,} bytes: {problem}" for problem in problems]


class _Disk:
    """Home folder, cache and exports lie on it; the images that a run is of lie elsewhere."""

    def __init__(self, folder: Path) -> None:
        draws = np.random.default_rng(0)
        for name in ("cat", "dog"):
            (folder / name).mkdir(parents=True)
            for number in range(60):
                Image.fromarray(draws.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / name / f"{number}.png")
            (folder / name / "none.png").write_bytes(b"no image")
        self._spec = RunSpec(
            f"folder:{folder}", "resnet20", epochs=4, image_size=8, dtype="float32", checkpoint_every=1
        )
        _train(folder.with_name("untroubled"), self._spec)
        self._untroubled = story_of(folders_in(folder.with_name("untroubled")))

    def __call__(self, home: Path, num_bytes: int) -> list[str]:
        home.mkdir()
        code = finish(start(children.train_on_a_full_disk, home, self._spec, _DISK_BYTES, num_bytes))
        said = (home / "said").read_text() if (home / "said").exists() else ""
        problems = [said] if said else []
        if code != 0:
            problems.append("it hung" if code is None else f"exit code {code}")
        else:
            problems += check_resumed(folders_in(home), self._untroubled)
        return [f"{num_bytes:,} bytes left: {problem}" for problem in problems]


def _train(folder: Path, spec: RunSpec) -> None:
    if finish(start(children.train_spec, folder, spec)) != 0:
        raise RuntimeError("the untroubled run did not end well")


def _can_mount() -> bool:
    """Whether this person may give a process a file system of its own."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    tried = subprocess.run(
        ("unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"), capture_output=True, check=False
    )  # it goes with the process
    return tried.returncode == 0


def after_a_full_disk(home: Path, folders: Folders, untroubled: Story) -> list[str]:
    """What does not hold once there is room again."""
    try:
        with Store(folders.database) as store:
            store.settle_lost_runs()
            runs = store.runs()
    except StoreError as error:
        return [f"the record cannot be read any more: {error}"]
    if not runs:
        return []
    if runs[0].status != "completed" and finish(start(children.resume_with, home)) != 0:
        return ["it could not go on"]
    return check_resumed(folders, untroubled)
